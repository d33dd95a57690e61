//! What agents tell each other: JSON, with a version of its own.

mod wire;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{
    inventory::Told,
    kernel::{KernelEvent, KernelSample, NetnsId, QueueDepth, Rung},
    time::UnixMs,
    verdict::{Heard, Place},
};

/// The version of the messages. A reader takes its own version only: another one has subjects of its
/// own.
pub const VERSION: u32 = 1;

/// A message of one agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "wire::Fields")]
pub struct Message {
    /// [`VERSION`].
    pub version: u32,
    /// The agent's host.
    pub host: String,
    /// When the agent was started, by its own clock: what tells its runs apart. A reader compares it
    /// with nothing else, so no value can shut out the runs that follow.
    pub run: UnixMs,
    /// Which one of the run's messages it is, from 1.
    pub number: u64,
    /// What it tells.
    #[serde(flatten)]
    pub content: Content,
}

impl Message {
    /// What no other message bears.
    pub fn id(&self) -> String {
        format!("{}-{}-{}", self.host, self.run.0, self.number)
    }
}

/// What a message tells.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Content {
    /// The endpoints of a namespace: its addresses and listeners.
    Namespace(Told),
    /// What the host's proxies said.
    Heard {
        /// In order of time.
        heard: Vec<Heard>,
    },
    /// More listeners that lost something in the second that the next tick tells of.
    Losses {
        /// What they lost.
        sample: KernelSample,
    },
    /// Lost segments in detail.
    Details {
        /// In order of time.
        events: Vec<KernelEvent>,
    },
    /// What the kernel did in a second, after all else that was seen and heard in it.
    Tick(Box<Tick>),
    /// The agent stops.
    Stopped,
}

/// What the kernel did in a second.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Tick {
    /// When queues were looked at. All that happened before has been told.
    pub at: UnixMs,
    /// What listeners lost.
    pub sample: KernelSample,
    /// Accept queues in which connections waited.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub waiting: Vec<(Place, QueueDepth)>,
    /// Namespaces whose clients sent SYNs again, each with the port called.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub syns_repeated: Vec<(NetnsId, u16)>,
    /// Namespaces in which a SYN queue was full.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub syn_queues_full: Vec<NetnsId>,
    /// Namespaces in which `tcp_abort_on_overflow` is set.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub aborting: BTreeSet<NetnsId>,
    /// The rung from which dropped SYNs are had.
    pub syn_rung: Rung,
    /// The rung from which dropped final ACKs are had.
    pub ack_rung: Rung,
    /// Every namespace that exists now: readers forget all others of this host.
    pub namespaces: BTreeSet<NetnsId>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        kernel::{Attribution, Class, ListenerDelta, ListenerId, Tally},
        time::Window,
    };

    /// What another release wrote must stay readable: the text is that of version 1.
    #[test]
    fn a_message_of_version_1_is_read_and_written() {
        let text = r#"{"version":1,"host":"app1","run":1700000000000,"number":7,"kind":"tick","at":1700000002000,"sample":{"window":{"from":1700000001000,"to":1700000002000},"listeners":[{"listener":{"netns":4026531840,"addr":"10.0.0.1:8000","inode":77},"tally":{"syn/accept_queue_full":3},"attribution":"exact","queue":{"len":129,"limit":128}}],"events_lost":0},"waiting":[[[4026531840,"10.0.0.1:8000"],{"len":129,"limit":128}]],"syns_repeated":[[4026531840,8000]],"syn_rung":"fentry","ack_rung":"fentry","namespaces":[4026531840]}"#;
        let netns = NetnsId(4_026_531_840);
        let addr = "10.0.0.1:8000".parse().unwrap();
        let queue = QueueDepth { len: 129, limit: 128 };
        let tick = Tick {
            at: UnixMs(1_700_000_002_000),
            sample: KernelSample {
                window: Window { from: UnixMs(1_700_000_001_000), to: UnixMs(1_700_000_002_000) },
                listeners: vec![ListenerDelta {
                    listener: ListenerId { netns, addr, inode: 77 },
                    tally: Tally::of(&[(Class::SynAcceptQueueFull, 3)]),
                    attribution: Attribution::Exact,
                    queue: Some(queue),
                }],
                events_lost: 0,
            },
            waiting: vec![((netns, addr), queue)],
            syns_repeated: vec![(netns, 8000)],
            syn_queues_full: Vec::new(),
            aborting: BTreeSet::new(),
            syn_rung: Rung::Fentry,
            ack_rung: Rung::Fentry,
            namespaces: [netns].into(),
        };
        let message = Message {
            version: VERSION,
            host: "app1".to_owned(),
            run: UnixMs(1_700_000_000_000),
            number: 7,
            content: Content::Tick(Box::new(tick)),
        };
        assert_eq!(serde_json::from_str::<Message>(text).unwrap(), message);
        assert_eq!(serde_json::to_string(&message).unwrap(), text);
        assert_eq!(message.id(), "app1-1700000000000-7");
    }
}
