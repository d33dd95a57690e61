//! A whole nginx configuration: a file with all it includes, or what `nginx -T` prints.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow, bail};

use super::{
    has_any,
    tree::{Directive, parse},
};
use crate::lint::{
    kind,
    root::{self, Root},
    text::{FileId, Texts, line_and_column},
};

/// Before each file that `nginx -T` prints.
const HEADER: &str = "# configuration file ";
/// nginx sets no limit and runs out of memory.
const DEEPEST_INCLUDE: usize = 32;
/// More than any configuration has.
const MOST_FILES: usize = 10_000;

/// A configuration with every `include` replaced by what it leads to; those of files that could not be
/// read are left.
pub struct Loaded {
    /// Its directives.
    pub tree: Vec<Directive>,
    /// What it includes that could not be read, each with where it is included.
    pub missing: Vec<String>,
    /// Included files that are no configuration: with file and line.
    pub broken: Vec<String>,
}

/// Where included files come from.
trait Library {
    fn find(&self, pattern: &str) -> Vec<PathBuf>;
    fn has(&self, path: &Path) -> bool;
    fn read(&mut self, path: &Path) -> Result<Vec<u8>>;
}

impl Library for &Root {
    fn find(&self, pattern: &str) -> Vec<PathBuf> {
        self.glob(pattern)
    }

    fn has(&self, path: &Path) -> bool {
        Root::has(self, path)
    }

    fn read(&mut self, path: &Path) -> Result<Vec<u8>> {
        Root::read(self, path)
    }
}

impl Library for BTreeMap<PathBuf, Vec<u8>> {
    fn find(&self, pattern: &str) -> Vec<PathBuf> {
        let matches = |path: &&PathBuf| root::matches(pattern, &path.to_string_lossy());
        self.keys().filter(matches).cloned().collect()
    }

    fn has(&self, path: &Path) -> bool {
        self.contains_key(path)
    }

    fn read(&mut self, path: &Path) -> Result<Vec<u8>> {
        self.get(path).cloned().with_context(|| format!("{} was not printed", path.display()))
    }
}

/// Reads a file that holds `bytes`, and all it includes; `path` is absolute, below `root`.
///
/// # Errors
///
/// When the file is no configuration: with its line.
pub fn from_root(root: &Root, path: &Path, bytes: &[u8], texts: &mut Texts) -> Result<Loaded> {
    Loader::of(root, texts).load(path, bytes)
}

/// Reads what `nginx -T` printed; `None` where `text` is nothing of the kind.
///
/// # Errors
///
/// When the main file is no configuration: with its line.
pub fn from_dump(text: &[u8], texts: &mut Texts) -> Option<Result<Loaded>> {
    let (main, files) = split_dump(text)?;
    let bytes = files.get(&main).cloned().unwrap_or_default();
    Some(Loader::of(files, texts).load(&main, &bytes))
}

/// The main file's name, and what each file holds; lines before the first are nginx's own words.
fn split_dump(text: &[u8]) -> Option<(PathBuf, BTreeMap<PathBuf, Vec<u8>>)> {
    let mut main = None;
    let mut files: BTreeMap<PathBuf, Vec<u8>> = BTreeMap::new();
    let mut current: Option<PathBuf> = None;
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let shown = String::from_utf8_lossy(line);
        let name = shown.trim_end().strip_prefix(HEADER).and_then(|rest| rest.strip_suffix(':'));
        if let Some(name) = name {
            let name = PathBuf::from(name);
            main.get_or_insert_with(|| name.clone());
            current = Some(name);
        } else if let Some(current) = &current {
            files.entry(current.clone()).or_default().extend(line);
        } else if !shown.trim().is_empty() && !shown.starts_with("nginx: ") {
            return None;
        }
    }
    Some((main?, files))
}

struct Loader<'a, L> {
    library: L,
    /// Where relative names begin: the directory of nginx's main file (`ngx_conf_full_name`).
    base: PathBuf,
    texts: &'a mut Texts,
    known: BTreeMap<PathBuf, FileId>,
    /// Files put in, the same one as often as it is included.
    read: usize,
    missing: Vec<String>,
    broken: Vec<String>,
}

impl<'a, L: Library> Loader<'a, L> {
    fn of(library: L, texts: &'a mut Texts) -> Self {
        Self {
            library,
            base: PathBuf::new(),
            texts,
            known: BTreeMap::new(),
            read: 0,
            missing: Vec::new(),
            broken: Vec::new(),
        }
    }

    fn load(mut self, main: &Path, bytes: &[u8]) -> Result<Loaded> {
        self.known.insert(main.to_owned(), self.texts.add(main, bytes));
        let tree = self.parsed(main)?;
        if !tree.is_empty() && !has_any(&tree) {
            bail!(
                "{}: not a configuration of nginx: no directive of nginx's is in it",
                main.display()
            );
        }
        self.base = self.base_of(main, &tree);
        let tree = self.with_includes(tree, 0)?;
        Ok(Loaded { tree, missing: self.missing, broken: self.broken })
    }

    /// A piece lies somewhere below the directory of the main file that includes it.
    fn base_of(&self, path: &Path, tree: &[Directive]) -> PathBuf {
        let own = path.parent().unwrap_or(Path::new("/"));
        let is_main = tree.iter().any(|directive| directive.is("events"));
        let mut above = own.ancestors().filter(|_| !is_main);
        above.find(|it| self.library.has(&it.join("nginx.conf"))).unwrap_or(own).to_owned()
    }

    fn parsed(&mut self, path: &Path) -> Result<Vec<Directive>> {
        let file = match self.known.get(path) {
            Some(file) => *file,
            None => {
                let bytes = self.library.read(path)?;
                let file = self.texts.add(path, &bytes);
                self.known.insert(path.to_owned(), file);
                file
            }
        };
        self.read += 1;
        let text = self.texts.get(file).text.clone();
        parse(file, &text).map_err(|error| {
            let path = &self.texts.get(file).path;
            let kind = kind::template(&text).map_or(String::new(), |kind| format!("; {kind}"));
            anyhow!("{path}:{}: {error}{kind}", line_and_column(&text, error.at).0)
        })
    }

    fn with_includes(&mut self, tree: Vec<Directive>, depth: usize) -> Result<Vec<Directive>> {
        let mut whole = Vec::with_capacity(tree.len());
        for mut directive in tree {
            if directive.is("include") && directive.block.is_none() {
                whole.extend(self.included(&directive, depth)?);
                continue;
            }
            if let Some(block) = directive.block.take() {
                directive.block = Some(self.with_includes(block, depth)?);
            }
            whole.push(directive);
        }
        Ok(whole)
    }

    fn included(&mut self, include: &Directive, depth: usize) -> Result<Vec<Directive>> {
        let pattern = include.arg(0).unwrap_or_default();
        let at = self.texts.shown(&include.place);
        if depth == DEEPEST_INCLUDE {
            bail!("{at}: more than {DEEPEST_INCLUDE} files include each other");
        }
        let path = self.base.join(pattern);
        let paths = if root::is_pattern(pattern) {
            self.library.find(&path.to_string_lossy())
        } else {
            vec![path]
        };
        let mut tree = Vec::new();
        for path in paths {
            if !self.known.contains_key(&path)
                && let Err(error) = self.library.read(&path)
            {
                self.missing.push(format!("{at} includes what could not be read: {error:#}"));
                tree.push(include.clone());
                continue;
            }
            if self.read > MOST_FILES {
                bail!("more than {MOST_FILES} files are included");
            }
            match self.parsed(&path) {
                Ok(parsed) => tree.extend(self.with_includes(parsed, depth + 1)?),
                Err(error) => self.broken.push(format!("{error:#}")),
            }
        }
        Ok(tree)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dump(text: &str) -> Result<Loaded> {
        from_dump(text.as_bytes(), &mut Texts::default()).unwrap()
    }

    const DUMP: &str = "nginx: the configuration file /etc/nginx/nginx.conf syntax is ok
# configuration file /etc/nginx/nginx.conf:
http {
    include conf.d/*.conf;
    include absent;
}

# configuration file /etc/nginx/conf.d/a.conf:
upstream a { server x:1; }

# configuration file /etc/nginx/conf.d/b.conf:
upstream b { server y:1; }
";

    #[test]
    fn a_dump_is_put_together_again() {
        let loaded = dump(DUMP).unwrap();
        let names: Vec<_> = loaded.tree[0].inner().iter().filter_map(|d| d.arg(0)).collect();
        assert_eq!(names, ["a", "b", "absent"], "an include that is not read stays");
        assert_eq!(loaded.missing.len(), 1);
        assert!(loaded.missing[0].starts_with("/etc/nginx/nginx.conf:3 includes"));
    }

    #[test]
    fn an_error_names_the_file_and_line_it_is_in() {
        let loaded = dump(&DUMP.replace("y:1;", "y:1")).unwrap();
        let error = &loaded.broken[0];
        assert!(error.starts_with("/etc/nginx/conf.d/b.conf:1: \"server\""), "{error}");
        assert!(loaded.tree[0].inner()[0].is("upstream"), "one broken file hides the others");
    }

    #[test]
    fn files_that_include_each_other_come_to_an_end() {
        let text = "# configuration file /a:\ninclude /a;\n";
        assert!(dump(text).err().unwrap().to_string().contains("include each other"));
    }

    #[test]
    fn what_no_nginx_printed_is_no_dump() {
        assert!(
            from_dump(b"user www;\n# configuration file /a:\n", &mut Texts::default()).is_none()
        );
        assert!(from_dump(b"", &mut Texts::default()).is_none());
    }
}
