//! The files that were read, and places in them.

use std::{
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

/// A file among those that were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(usize);

/// A file as it was read.
#[derive(Clone, Debug)]
pub struct TextFile {
    /// Its path, as it is shown.
    pub path: String,
    /// What it holds. What is no UTF-8 is replaced: no rule depends on it, and places stay true.
    pub text: Arc<str>,
    /// Where its lines begin, in bytes.
    starts: Arc<[usize]>,
}

/// All files that were read.
#[derive(Clone, Debug, Default)]
pub struct Texts {
    files: Vec<TextFile>,
    home: Home,
}

/// How paths are shown.
#[derive(Clone, Debug)]
pub enum Home {
    /// Relative to a directory, where they lie in it; nothing is relative to the empty path.
    Base(PathBuf),
    /// Below a directory that is somebody's root.
    Root(PathBuf),
}

impl Default for Home {
    fn default() -> Self {
        Self::Base(PathBuf::new())
    }
}

/// A stretch of a file, in bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Which file.
    pub file: FileId,
    /// First byte.
    pub start: usize,
    /// The byte after the last.
    pub end: usize,
}

impl Place {
    /// As a range of bytes.
    pub fn range(&self) -> Range<usize> {
        self.start..self.end
    }
}

impl Texts {
    /// Keeps a file.
    pub fn add(&mut self, path: impl AsRef<Path>, bytes: &[u8]) -> FileId {
        let path = path.as_ref();
        let path = match &self.home {
            Home::Base(base) => path.strip_prefix(base).unwrap_or(path).to_owned(),
            Home::Root(root) => root.join(path.strip_prefix("/").unwrap_or(path)),
        };
        let text: Arc<str> = String::from_utf8_lossy(bytes).into();
        let ends = memchr::memchr_iter(b'\n', text.as_bytes()).map(|at| at + 1);
        let starts = std::iter::once(0).chain(ends).collect();
        self.files.push(TextFile { path: path.display().to_string(), text, starts });
        FileId(self.files.len() - 1)
    }

    /// From now on paths are shown like this.
    pub fn show(&mut self, home: Home) {
        self.home = home;
    }

    /// A file; every [`FileId`] comes from [`add`](Self::add).
    pub fn get(&self, file: FileId) -> &TextFile {
        &self.files[file.0]
    }

    /// All files, in the order in which they were read.
    pub fn iter(&self) -> impl Iterator<Item = (FileId, &TextFile)> {
        self.files.iter().enumerate().map(|(index, file)| (FileId(index), file))
    }

    /// How many files were read.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether nothing was read.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Line and column of a byte, both from 1; columns in characters.
    pub fn line_and_column(&self, file: FileId, byte: usize) -> (usize, usize) {
        let TextFile { text, starts, .. } = self.get(file);
        let line = starts.partition_point(|start| *start <= byte);
        let on_line = text.get(starts[line - 1]..byte).unwrap_or_default();
        (line, on_line.chars().count() + 1)
    }

    /// The bytes of the lines from the first to the last, both from 1, as far as there are any.
    pub fn lines(&self, file: FileId, first: usize, last: usize) -> Range<usize> {
        let TextFile { text, starts, .. } = self.get(file);
        let start = starts.get(first.saturating_sub(1)).copied().unwrap_or(text.len());
        start..starts.get(last).copied().unwrap_or(text.len())
    }

    /// The line a place begins in, from 1.
    pub fn line(&self, place: &Place) -> usize {
        self.line_and_column(place.file, place.start).0
    }

    /// `/etc/nginx/nginx.conf:12`.
    pub fn shown(&self, place: &Place) -> String {
        format!("{}:{}", self.get(place.file).path, self.line(place))
    }

    /// What stands at a place.
    pub fn slice(&self, place: &Place) -> &str {
        self.get(place.file).text.get(place.range()).unwrap_or_default()
    }

    /// What stands before a byte on its line.
    pub fn before_on_line(&self, file: FileId, byte: usize) -> &str {
        let before = self.get(file).text.get(..byte).unwrap_or_default();
        &before[before.rfind('\n').map_or(0, |at| at + 1)..]
    }
}

/// Line and column of a byte of `text`, both from 1; columns in characters.
pub fn line_and_column(text: &str, byte: usize) -> (usize, usize) {
    let before = text.get(..byte).unwrap_or(text);
    let line = memchr::memchr_iter(b'\n', before.as_bytes()).count() + 1;
    let on_line = &before[before.rfind('\n').map_or(0, |at| at + 1)..];
    (line, on_line.chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_columns_begin_with_one() {
        let mut texts = Texts::default();
        let file = texts.add("f", "ab\nüx\n".as_bytes());
        assert_eq!(texts.line_and_column(file, 0), (1, 1));
        assert_eq!(texts.line_and_column(file, 5), (2, 2));
        assert_eq!(texts.before_on_line(file, 5), "ü");
        assert_eq!(texts.shown(&Place { file, start: 3, end: 5 }), "f:2");
    }
}
