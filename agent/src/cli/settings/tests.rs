use std::io::Write;

use clap::parser::ValueSource;
use tempfile::NamedTempFile;

use super::*;

/// The file that is shipped.
const SHIPPED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/floodmark.toml");

fn file(text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

/// What `run` makes of the command line, the file and the environment.
fn parsed(flags: &[&str], file: &Path, environment: &[(&str, &str)]) -> Result<ArgMatches> {
    let environment = environment.iter().map(|(name, value)| (name.into(), value.into()));
    let layers = layers(Some(file), environment)?;
    let words = [&["floodmark", "run"], flags].concat();
    Ok(options(&with_layers(&layers).try_get_matches_from(words)?).unwrap().clone())
}

fn raw(options: &ArgMatches, id: &str) -> Vec<String> {
    let raw = options.get_raw(id).into_iter().flatten();
    raw.map(|value| value.to_str().unwrap().to_owned()).collect()
}

#[test]
fn an_option_counts_more_than_the_environment_and_that_more_than_the_file() {
    let file = file("listen = '127.0.0.1:1'\nlisteners = 5\nwatch-causes = true\n");
    let variable = [("FLOODMARK_LISTEN", "127.0.0.1:2")];
    let listen = |options: &ArgMatches| raw(options, "listen")[0].clone();
    let of_file = parsed(&[], file.path(), &[]).unwrap();
    assert_eq!(listen(&of_file), "127.0.0.1:1");
    assert_eq!(raw(&of_file, "listeners"), ["5"]);
    assert_eq!(of_file.get_one::<bool>("watch_causes"), Some(&true));
    assert_eq!(of_file.get_one::<bool>("watch_connections"), Some(&false));
    assert_eq!(listen(&parsed(&[], file.path(), &variable).unwrap()), "127.0.0.1:2");
    let flags = ["--listen", "127.0.0.1:3", "--watch-causes=false", "--watch-connections"];
    let of_flag = parsed(&flags, file.path(), &variable).unwrap();
    assert_eq!(listen(&of_flag), "127.0.0.1:3");
    assert_eq!(of_flag.get_one::<bool>("watch_causes"), Some(&false));
    assert_eq!(of_flag.get_one::<bool>("watch_connections"), Some(&true));
}

#[test]
fn a_list_is_replaced_as_a_whole() {
    let file = file("nginx-error-log = ['/a,b', '/c']\n");
    let of_file = parsed(&[], file.path(), &[]).unwrap();
    assert_eq!(raw(&of_file, "nginx_error_logs"), ["/a,b", "/c"]);
    let variable = [("FLOODMARK_NGINX_ERROR_LOG", "/d, /e")];
    let of_variable = parsed(&[], file.path(), &variable).unwrap();
    assert_eq!(raw(&of_variable, "nginx_error_logs"), ["/d", "/e"]);
    let of_flag = parsed(&["--nginx-error-log", "/f"], file.path(), &variable).unwrap();
    assert_eq!(raw(&of_flag, "nginx_error_logs"), ["/f"]);
}

#[test]
fn a_wrong_value_is_named_with_its_line_or_variable() {
    let refusal = |text: &str, environment: &[(&str, &str)]| {
        let file = file(text);
        let error = parsed(&[], file.path(), environment).unwrap_err();
        format!("{error:#}").replace(&file.path().display().to_string(), "f.toml")
    };
    assert_eq!(
        refusal("\nlisten = 'nowhere'\n", &[]),
        "f.toml:2: listen: invalid value \"nowhere\": invalid socket address syntax"
    );
    assert!(refusal("listeners = -1", &[]).starts_with("f.toml:1: listeners: "));
    assert!(refusal("listen = ['127.0.0.1:1', '127.0.0.1:2']", &[]).contains("multiple times"));
    assert!(refusal("watch-causes = 'perhaps'", &[]).contains("f.toml:1: watch-causes: "));
    let variable = refusal("", &[("FLOODMARK_PROXY_LOG", "iis=/x")]);
    assert!(variable.starts_with("FLOODMARK_PROXY_LOG: proxy-log: invalid value"), "{variable}");
    for text in ["listen = 'x'", "a b", "x = 1"] {
        assert_eq!(refusal(text, &[]).lines().count(), 1);
    }
}

#[test]
fn the_shipped_file_changes_nothing_and_shows_every_option_with_its_default() {
    assert!(of_file(Path::new(SHIPPED)).unwrap().is_empty(), "every key is commented out");
    let text = fs::read_to_string(SHIPPED).unwrap();
    let is_key = |line: &&str| line.split_once(" = ").is_some_and(|(key, _)| !key.contains(' '));
    let keys: String = text
        .lines()
        .filter_map(|line| line.strip_prefix('#'))
        .filter(is_key)
        .flat_map(|line| [line, "\n"])
        .collect();
    let with_all = parsed(&[], file(&keys).path(), &[]).unwrap();
    for definition in definitions() {
        let (id, name) = (definition.get_id().as_str(), definition.get_long().unwrap());
        let key = format!("{name} = ");
        assert!(
            keys.lines().any(|line| line.starts_with(&key)),
            "deploy/floodmark.toml lacks {name}"
        );
        let without = parsed(&[], file("").path(), &[]).unwrap();
        let has_default = without.value_source(id) == Some(ValueSource::DefaultValue);
        if has_default {
            assert_eq!(raw(&with_all, id), raw(&without, id), "the default of {name}");
        }
    }
}
