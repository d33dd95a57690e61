//! HAProxy's sections, after `readcfgfile` (src/cfgparse.c): a line is a setting, its words are parted
//! by space; quotes, backslashes and `#` as in a shell.

use crate::lint::text::{FileId, Place, Texts};

/// A word of a setting.
#[derive(Clone, Debug)]
pub struct Word {
    pub value: String,
    pub place: Place,
}

/// A line that is no comment.
#[derive(Clone, Debug)]
pub struct Setting {
    pub words: Vec<Word>,
}

/// A section with its settings.
#[derive(Debug)]
pub struct Section {
    pub head: Setting,
    pub settings: Vec<Setting>,
    /// The `defaults` section in force, as an index.
    defaults: Option<usize>,
}

/// A file, or several that are read one after the other.
#[derive(Debug, Default)]
pub struct Configuration {
    pub sections: Vec<Section>,
    /// The `defaults` section that the next section takes.
    latest_defaults: Option<usize>,
}

/// Every section up to 3.4 (`REGISTER_CONFIG_SECTION`, `cfg_register_section`).
const SECTIONS: [&str; 21] = [
    "global",
    "defaults",
    "frontend",
    "backend",
    "listen",
    "userlist",
    "peers",
    "mailers",
    "resolvers",
    "cache",
    "program",
    "ring",
    "http-errors",
    "log-forward",
    "fcgi-app",
    "crt-store",
    "log-profile",
    "namespace_list",
    "traces",
    "acme",
    "healthcheck",
];

/// Directives of the configuration's own language (`cfg_eval_condition`, src/cfgcond.c).
const MACROS: [&str; 8] =
    [".if", ".elif", ".else", ".endif", ".diag", ".notice", ".warning", ".alert"];

/// Whether a configuration may begin with this word.
pub fn begins(word: &str) -> bool {
    SECTIONS.contains(&word) || MACROS.contains(&word)
}

impl Setting {
    pub fn word(&self, index: usize) -> &str {
        self.words.get(index).map_or("", |word| word.value.as_str())
    }

    /// Whether it begins with these words.
    pub fn is(&self, words: &[&str]) -> bool {
        words.iter().enumerate().all(|(index, word)| self.word(index) == *word)
    }

    /// The word after this one.
    pub fn after(&self, name: &str) -> Option<&Word> {
        let at = self.words.iter().position(|word| word.value == name)?;
        self.words.get(at + 1)
    }

    pub fn has(&self, name: &str) -> bool {
        self.words.iter().any(|word| word.value == name)
    }

    /// From the first word to the last.
    pub fn place(&self) -> Place {
        let (first, last) = (&self.words[0].place, &self.words[self.words.len() - 1].place);
        Place { end: last.end, ..first.clone() }
    }
}

impl Section {
    pub fn is(&self, kind: &str) -> bool {
        self.head.word(0) == kind
    }

    pub fn name(&self) -> &str {
        self.head.word(1)
    }
}

impl Configuration {
    /// The settings in force for a section: its own, and before them those of its defaults.
    pub fn effective<'a>(
        &'a self,
        section: &'a Section,
    ) -> impl DoubleEndedIterator<Item = &'a Setting> {
        let inherited = section.defaults.map(|index| &self.sections[index].settings);
        inherited.into_iter().flatten().chain(&section.settings)
    }

    /// Whether a proxy speaks HTTP: HAProxy's default is `mode tcp`. A piece without `defaults` may get
    /// its mode from another file.
    pub fn is_http(&self, section: &Section) -> bool {
        match self.effective(section).rfind(|setting| setting.is(&["mode"])) {
            Some(mode) => mode.word(1) == "http",
            None => self.is_piece(section),
        }
    }

    /// Whether the settings for a section may be in another file.
    pub fn is_piece(&self, section: &Section) -> bool {
        section.defaults.is_none() && !self.sections.iter().any(|other| other.is("global"))
    }

    /// The `global` sections, which are merged.
    pub fn globals(&self) -> impl DoubleEndedIterator<Item = &Section> {
        self.sections.iter().filter(|section| section.is("global"))
    }

    /// The last setting with these words in force.
    pub fn last<'a>(&'a self, section: &'a Section, words: &[&str]) -> Option<&'a Setting> {
        self.effective(section).rfind(|setting| setting.is(words))
    }

    /// Whether an option is on: `no option` and `default option` turn it off.
    pub fn has_option(&self, section: &Section, name: &str) -> bool {
        let found = self.effective(section).rfind(|setting| {
            let at = usize::from(!setting.is(&["option"]));
            setting.word(at) == "option" && setting.word(at + 1) == name
        });
        found.is_some_and(|setting| setting.is(&["option"]))
    }

    /// Where a setting is best put for it: its defaults, for they serve others as well.
    pub fn anchor<'a>(&'a self, section: &'a Section) -> &'a Section {
        section.defaults.map_or(section, |index| &self.sections[index])
    }

    /// Sections that pass requests to servers, each with its `server` and `server-template` lines.
    pub fn passing(&self) -> impl Iterator<Item = (&Section, Vec<&Setting>)> {
        let passing = self.sections.iter().filter(|s| s.is("backend") || s.is("listen"));
        let with_servers = passing.map(|section| {
            let is_server = |setting: &&Setting| {
                let is_one = setting.is(&["server"]) && setting.words.len() > 2;
                is_one || (setting.is(&["server-template"]) && setting.words.len() > 3)
            };
            (section, section.settings.iter().filter(is_server).collect::<Vec<_>>())
        });
        with_servers.filter(|(_, servers)| !servers.is_empty())
    }

    /// What is in force for a parameter of a server: its own value, or that of the last
    /// `default-server` that has one.
    pub fn parameter<'a>(
        &'a self,
        section: &'a Section,
        server: &'a Setting,
        name: &str,
    ) -> Option<(&'a Setting, &'a Word)> {
        let defaults = self.effective(section).filter(|setting| setting.is(&["default-server"]));
        let lines: Vec<_> = defaults.chain([server]).collect();
        lines.into_iter().rev().find_map(|line| line.after(name).map(|word| (line, word)))
    }

    /// Whether a keyword such as `check` holds for a server; `no-check` turns it off.
    pub fn has_keyword(&self, section: &Section, server: &Setting, name: &str) -> bool {
        let defaults = self.effective(section).filter(|setting| setting.is(&["default-server"]));
        let mut words = defaults.chain([server]).flat_map(|line| &line.words);
        let last =
            words.rfind(|word| word.value.strip_prefix("no-").unwrap_or(&word.value) == name);
        last.is_some_and(|word| word.value == name)
    }
}

/// Reads files in their order: the `defaults` of one hold for those after it. Whatever stands before a
/// file's first section belongs to none.
pub fn read(files: &[FileId], texts: &Texts) -> Configuration {
    let mut configuration = Configuration::default();
    for file in files {
        configuration.read(*file, &texts.get(*file).text);
    }
    configuration
}

impl Configuration {
    fn read(&mut self, file: FileId, text: &str) {
        let (mut start, others) = (0, self.sections.len());
        for line in text.split_inclusive('\n') {
            let words = words(file, line, start);
            start += line.len();
            let Some(first) = words.first() else { continue };
            if MACROS.contains(&first.value.as_str()) {
                continue; // What is behind a condition may hold.
            }
            // Indentation means nothing (`readcfgfile`).
            if SECTIONS.contains(&first.value.as_str()) {
                self.begin(Setting { words });
            } else if let Some(section) = self.sections[others..].last_mut() {
                section.settings.push(Setting { words });
            }
        }
    }

    fn begin(&mut self, head: Setting) {
        let named = head.after("from").and_then(|name| {
            let is_it = |s: &Section| s.is("defaults") && s.name() == name.value;
            self.sections.iter().rposition(is_it)
        });
        let is_proxy = matches!(head.word(0), "frontend" | "backend" | "listen" | "defaults");
        // A `defaults` section starts from HAProxy's own defaults unless it says `from`.
        let is_defaults = head.word(0) == "defaults";
        let inherited = named.or(self.latest_defaults.filter(|_| !is_defaults));
        let defaults = inherited.filter(|_| is_proxy);
        if is_defaults {
            self.latest_defaults = Some(self.sections.len());
        }
        self.sections.push(Section { head, settings: Vec::new(), defaults });
    }
}

fn words(file: FileId, line: &str, start: usize) -> Vec<Word> {
    let mut words = Vec::new();
    let mut current: Option<Word> = None;
    let mut quote = None;
    let mut chars = line.char_indices();
    while let Some((at, char)) = chars.next() {
        let is_end = quote.is_none() && (char.is_whitespace() || char == '#');
        if is_end || matches!(char, '\n' | '\r') {
            words.extend(current.take());
            if char == '#' {
                break;
            }
            continue;
        }
        let at_byte = start + at;
        let word = current.get_or_insert_with(|| Word {
            value: String::new(),
            place: Place { file, start: at_byte, end: at_byte },
        });
        match (char, quote) {
            ('\\', Some('"') | None) => {
                if let Some((_, escaped)) = chars.next() {
                    word.value.push(escaped);
                }
            }
            ('"' | '\'', None) => quote = Some(char),
            (_, Some(open)) if char == open => quote = None,
            _ => word.value.push(char),
        }
        word.place.end = start + chars.clone().next().map_or(line.len(), |(next, _)| next);
    }
    words.extend(current);
    words
}

/// HAProxy's times: milliseconds unless a unit says otherwise; in seconds.
pub fn seconds(text: &str) -> Option<f64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: f64 = text[..digits].parse().ok()?;
    Some(match &text[digits..] {
        "us" => number / 1_000_000.0,
        "" | "ms" => number / 1000.0,
        "s" => number,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        "d" => number * 86_400.0,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_inherits_the_defaults_before_it_or_those_it_names() {
        let text = "defaults a\n timeout connect 5s\ndefaults b\n timeout connect 60s # long\n\
                    backend x\n server s 1.2.3.4:80\nbackend y from a\n server s \"1.2.3.4:80\" check\n";
        let mut texts = Texts::default();
        let file = texts.add("haproxy.cfg", text.as_bytes());
        let configuration = read(&[file], &texts);
        let connect: Vec<_> = configuration
            .passing()
            .map(|(section, _)| {
                let timeouts = configuration.effective(section);
                timeouts.filter(|s| s.is(&["timeout", "connect"])).map(|s| s.word(2)).collect()
            })
            .collect::<Vec<Vec<_>>>();
        assert_eq!(connect, [["60s"], ["5s"]]);
        let server = configuration.passing().last().unwrap().1[0];
        assert_eq!(
            (server.word(2), &text[server.words[2].place.range()]),
            ("1.2.3.4:80", "\"1.2.3.4:80\"")
        );
    }

    #[test]
    fn defaults_hold_for_the_files_after_theirs() {
        let mut texts = Texts::default();
        let files = [
            texts.add("00-global.cfg", b"defaults\n timeout connect 5s\n"),
            texts.add("10-app.cfg", b" log global\nbackend x\n server s 1.2.3.4:80\n"),
        ];
        let configuration = read(&files, &texts);
        let (section, servers) = configuration.passing().next().unwrap();
        assert_eq!(servers[0].words[0].place.file, files[1]);
        let effective: Vec<_> = configuration.effective(section).map(|s| s.word(0)).collect();
        assert_eq!(effective, ["timeout", "server"], "a line before any section is nobody's");
    }

    #[test]
    fn times_are_milliseconds_unless_said() {
        for (text, expected) in
            [("5000", Some(5.0)), ("5s", Some(5.0)), ("2m", Some(120.0)), ("x", None), ("", None)]
        {
            assert_eq!(seconds(text), expected, "{text}");
        }
    }
}
