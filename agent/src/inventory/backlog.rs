//! The backlog that a process asks for, and which bound makes its queue as short as it is.

use floodmark_common::queue::ListenCall;
use serde::{Deserialize, Serialize};

/// The backlog of a listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backlog {
    /// What the process asked for. Inferred and equal to somaxconn, it is that or more.
    pub asked: Option<u32>,
    /// True where nobody saw the `listen(2)`.
    pub inferred: bool,
    /// `net.core.somaxconn` at that time; the present one where the backlog is inferred.
    pub somaxconn: Option<u32>,
}

impl Backlog {
    /// From the call, where one was seen that explains the limit; else from the limit, which is the
    /// smaller of backlog and somaxconn (kernel: net/socket.c `__sys_listen`).
    pub fn of(limit: u32, call: Option<&ListenCall>, somaxconn: Option<u32>) -> Self {
        // The kernel compares without sign: a negative backlog means as much as there is.
        let seen = call.map(|call| (call.backlog.cast_unsigned(), call.somaxconn));
        match seen.filter(|(asked, somaxconn)| asked.min(somaxconn) == &limit) {
            Some((asked, then)) => {
                Self { asked: Some(asked), inferred: false, somaxconn: Some(then) }
            }
            None => Self { asked: Some(limit), inferred: true, somaxconn },
        }
    }

    /// Which bound holds, given the limit in force.
    pub fn limited_by(&self, limit: u32) -> Option<LimitedBy> {
        let (asked, somaxconn) = (self.asked?, self.somaxconn?);
        Some(match asked.cmp(&somaxconn) {
            std::cmp::Ordering::Less => LimitedBy::Backlog,
            std::cmp::Ordering::Greater => LimitedBy::Somaxconn,
            // Inferred, it may well have been more: that somaxconn bounds it is all that is sure.
            std::cmp::Ordering::Equal if self.inferred && limit == somaxconn => {
                LimitedBy::Somaxconn
            }
            std::cmp::Ordering::Equal => LimitedBy::Both,
        })
    }
}

/// Which of two bounds makes a queue as short as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitedBy {
    /// The backlog that the process asks for.
    Backlog,
    /// `net.core.somaxconn`; the process has to listen again after it is raised.
    Somaxconn,
    /// They are equal.
    Both,
}

impl LimitedBy {
    /// Name in metrics and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Backlog => "backlog",
            Self::Somaxconn => "somaxconn",
            Self::Both => "both",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(backlog: i32, somaxconn: u32) -> ListenCall {
        ListenCall { backlog, somaxconn, ..ListenCall::default() }
    }

    fn limited(limit: u32, call: Option<ListenCall>, somaxconn: u32) -> (u32, bool, LimitedBy) {
        let backlog = Backlog::of(limit, call.as_ref(), Some(somaxconn));
        (backlog.asked.unwrap(), backlog.inferred, backlog.limited_by(limit).unwrap())
    }

    #[test]
    fn a_call_that_was_seen_tells_what_to_raise() {
        assert_eq!(limited(128, Some(call(128, 4096)), 4096), (128, false, LimitedBy::Backlog));
        assert_eq!(limited(128, Some(call(511, 128)), 128), (511, false, LimitedBy::Somaxconn));
        assert_eq!(limited(128, Some(call(128, 128)), 128), (128, false, LimitedBy::Both));
        let all = (u32::MAX, false, LimitedBy::Somaxconn);
        assert_eq!(limited(4096, Some(call(-1, 4096)), 4096), all);
        // somaxconn was raised since, which a listener does not feel.
        assert_eq!(limited(128, Some(call(511, 128)), 4096), (511, false, LimitedBy::Somaxconn));
    }

    #[test]
    fn without_a_call_the_limit_tells_at_least_which_bound_holds() {
        assert_eq!(limited(128, None, 4096), (128, true, LimitedBy::Backlog));
        assert_eq!(limited(128, None, 128), (128, true, LimitedBy::Somaxconn));
        // The call that was seen is not the one in force.
        assert_eq!(limited(5, Some(call(511, 128)), 128), (5, true, LimitedBy::Backlog));
    }
}
