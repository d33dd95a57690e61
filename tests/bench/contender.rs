//! What can be attached: nothing, the agent, empty programs in its places, tools of others.

use std::{
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::Result;
use floodmark::kernel::{Hook, Object, Reach};

use crate::{
    empty::{self, Empty},
    hooks,
    tool::Tool,
};

/// How long the agent's canary sings after the start.
const CANARY: Duration = Duration::from_secs(6);

/// Who is measured.
pub struct Contender {
    /// Its name in the table.
    pub name: &'static str,
    pub tells: &'static str,
    /// How it is attached.
    pub kind: Kind,
}

/// How a contender is attached.
pub enum Kind {
    /// Not at all.
    Nothing,
    /// The agent's programs, with nobody who reads their maps.
    Programs,
    /// `floodmark run`.
    Agent(PathBuf),
    /// Programs that do nothing, from this object, on the agent's hooks.
    Empty(Vec<u8>),
    /// A program with its arguments.
    Tool(&'static str, Vec<String>),
}

/// A contender at work; detached when dropped.
pub enum Attached {
    /// No program.
    Nothing,
    /// The agent's programs.
    Programs { _object: Box<Object> },
    /// The agent.
    Agent { _running: Tool },
    /// Empty programs.
    Empty(Vec<Empty>),
    /// A tool.
    Tool { _running: Tool },
}

impl Contender {
    /// Attaches it; empty programs go to `hooks`.
    pub fn attach(&self, hooks: &[&'static Hook]) -> Result<Attached> {
        Ok(match &self.kind {
            Kind::Nothing => Attached::Nothing,
            Kind::Programs => {
                Attached::Programs { _object: Box::new(Object::attach(Reach::default())) }
            }
            Kind::Agent(program) => Attached::Agent { _running: start_agent(program)? },
            Kind::Empty(object) => Attached::Empty(empty::attach(object, hooks)?),
            Kind::Tool(program, args) => Attached::Tool { _running: Tool::start(program, args)? },
        })
    }
}

impl Attached {
    /// What to call the program with this id and name: the agent's programs and the empty ones in
    /// their places are called alike.
    pub fn label(&self, id: u32, name: &str) -> String {
        let hook = match self {
            Self::Programs { .. } | Self::Agent { .. } => hooks::of_program(name),
            Self::Empty(programs) => {
                programs.iter().find(|program| program.id == id).map(|program| program.hook)
            }
            Self::Nothing | Self::Tool { .. } => None,
        };
        hook.map_or(name, |hook| hook.program).to_owned()
    }
}

fn start_agent(program: &Path) -> Result<Tool> {
    let running = Tool::start(&program.to_string_lossy(), &["run".to_owned()])?;
    thread::sleep(CANARY);
    Ok(running)
}
