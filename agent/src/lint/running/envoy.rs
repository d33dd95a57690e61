//! Running Envoys.

use std::path::PathBuf;

use super::{Process, option};

/// Whether the process is one. Its own builds are called `envoy-static`.
pub fn is_it(process: &Process) -> bool {
    process.runs("envoy") || process.runs("envoy-static")
}

/// What its command line has it read (`OptionsImpl`, source/server/options_impl.cc).
pub fn configuration(words: &[String]) -> Option<PathBuf> {
    option(words, &["-c", "--config-path"]).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_reads_is_found_however_it_is_said() {
        for line in [
            "envoy -c /e.yaml -l info",
            "envoy --config-path /e.yaml",
            "envoy --config-path=/e.yaml",
        ] {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            assert_eq!(configuration(&words), Some("/e.yaml".into()), "{line}");
        }
        assert_eq!(configuration(&["envoy".to_owned(), "--version".to_owned()]), None);
    }
}
