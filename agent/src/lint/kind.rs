//! What a file is that is no configuration of a known proxy, so that the error can say so.

use memchr::memmem;

/// The template language a text is written in, as the end of an error. Proxies read none of them.
pub fn template(text: &str) -> Option<&'static str> {
    let has = |mark: &str| memmem::find(text.as_bytes(), mark.as_bytes()).is_some();
    let starts = |mark: &str| text.lines().any(|line| line.trim_start().starts_with(mark));
    let go =
        ["{{ .", "{{.", "{{- ", "{{ $", "{{$", "{{ range ", "{{ if ", "{{ end ", "{{ template "];
    if starts("{%") || has("{%-") || (has("{% ") && has(" %}")) {
        Some("it looks like a Jinja2 template: render it first")
    } else if has("}}") && go.iter().any(|mark| has(mark)) {
        Some("it looks like a Go template, as of Helm or consul-template: render it first")
    } else if starts("<%") || (has("<%=") && has("%>")) {
        Some("it looks like an ERB or EPP template: render it first")
    } else if has("{{ ") && has(" }}") {
        Some("it looks like a Jinja2 or Mustache template: render it first")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_recognised_and_configurations_are_not_taken_for_one() {
        for (text, word) in [
            ("upstream a {\n{% for s in servers %}\n server {{ s }};\n{% endfor %}\n}", "Jinja2"),
            ("upstream a { server {{ host }}:80; }", "Jinja2"),
            ("upstream a {\n{{- range .Servers }}\n server {{ .Addr }};\n{{- end }}\n}", "Go"),
            ("upstream a {\n<% @servers.each do |s| %>\n server <%= s %>;\n<% end %>\n}", "ERB"),
        ] {
            assert!(template(text).is_some_and(|kind| kind.contains(word)), "{text}");
        }
        for text in [
            "log_format j '{\"a\":{\"b\":\"$status\"}}';",
            "location ~ ^/[0-9]{2}{3}$ { }",
            "log-format \"%{+Q}o %ci\"",
        ] {
            assert_eq!(template(text), None, "{text}");
        }
    }
}
