//! The formats in which HAProxy is configured to write its logs.

use super::section;
use crate::lint::text::Texts;

/// Each `log-format` and `error-log-format` of a configuration, without its quotes and backslashes.
pub fn log_formats(path: &str, bytes: &[u8]) -> Vec<String> {
    let mut texts = Texts::default();
    let file = texts.add(path, bytes);
    let configuration = section::read(&[file], &texts);
    let settings = configuration.sections.iter().flat_map(|section| &section.settings);
    let formats =
        settings.filter(|setting| setting.is(&["log-format"]) || setting.is(&["error-log-format"]));
    formats.map(|setting| setting.word(1).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_found_however_they_are_quoted() {
        let text = b"defaults\n log-format \"%ci [%t] %{+Q}r\" # ours\nfrontend a\n \
                     log-format %ci\\ [%t]\\ \\\"%ts\\\"\nlisten b\n error-log-format '%b %ts'\n option httplog\n";
        let found = log_formats("haproxy.cfg", text);
        assert_eq!(found, ["%ci [%t] %{+Q}r", "%ci [%t] \"%ts\"", "%b %ts"]);
    }
}
