//! Problems in a configuration: place, key and reason, never a value from the environment.

use std::{fmt, ops::Range};

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The place.
    pub place: Place,
    /// The dotted key; empty for the file as a whole.
    pub key: String,
    /// The reason, and what to write instead.
    pub reason: String,
}

/// The origin of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A file, with its line if known.
    File {
        /// The file as named by the user.
        file: String,
        /// The line, from 1.
        line: Option<usize>,
    },
    /// The command line.
    Flag(&'static str),
}

/// All problems of a configuration; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl Problem {
    /// The line, if the problem is in a file.
    pub(super) fn line(&self) -> Option<usize> {
        match &self.place {
            Place::File { line, .. } => *line,
            Place::Flag(_) => None,
        }
    }
}

impl Problems {
    /// A problem with an argument or a variable.
    pub(crate) fn of_flag(flag: &'static str, reason: impl Into<String>) -> Self {
        Self(vec![Problem { place: Place::Flag(flag), key: String::new(), reason: reason.into() }])
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::File { file, line: Some(line) } => write!(f, "{file}:{line}: ")?,
            Place::File { file, line: None } => write!(f, "{file}: ")?,
            Place::Flag(flag) => write!(f, "{flag}: ")?,
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.reason)
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, problem) in self.0.iter().enumerate() {
            let separator = if n > 0 { "\n" } else { "" };
            write!(f, "{separator}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// The line on which a span begins, from 1.
pub(super) fn line_of(text: &str, span: &Range<usize>) -> usize {
    text.as_bytes().iter().take(span.start).filter(|byte| **byte == b'\n').count() + 1
}
