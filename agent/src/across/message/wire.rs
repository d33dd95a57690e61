//! How a message is read: field by field. Serde's `flatten` and `tag` would first build the whole of it
//! in memory, and hostile messages are many.

use std::{collections::BTreeSet, net::IpAddr};

use serde::Deserialize;

use super::{Content, Message, Tick};
use crate::{
    inventory::{Told, ToldListener},
    kernel::{KernelEvent, KernelSample, NetnsId, QueueDepth, Rung},
    time::UnixMs,
    verdict::{Heard, Place},
};

/// What a message may tell.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Namespace,
    Heard,
    Losses,
    Details,
    Tick,
    Stopped,
}

/// The fields of every kind of message.
#[derive(Deserialize)]
pub(super) struct Fields {
    version: u32,
    host: String,
    run: UnixMs,
    number: u64,
    kind: Kind,
    netns: Option<NetnsId>,
    name: Option<String>,
    addresses: Option<BTreeSet<IpAddr>>,
    listeners: Option<Vec<ToldListener>>,
    #[serde(default)]
    left_out: usize,
    heard: Option<Vec<Heard>>,
    events: Option<Vec<KernelEvent>>,
    sample: Option<KernelSample>,
    at: Option<UnixMs>,
    #[serde(default)]
    waiting: Vec<(Place, QueueDepth)>,
    #[serde(default)]
    syns_repeated: Vec<(NetnsId, u16)>,
    #[serde(default)]
    syn_queues_full: Vec<NetnsId>,
    #[serde(default)]
    aborting: BTreeSet<NetnsId>,
    syn_rung: Option<Rung>,
    ack_rung: Option<Rung>,
    namespaces: Option<BTreeSet<NetnsId>>,
}

impl TryFrom<Fields> for Message {
    type Error = &'static str;

    fn try_from(fields: Fields) -> Result<Self, Self::Error> {
        let Fields { version, run, number, .. } = fields;
        let content = match fields.kind {
            Kind::Namespace => Content::Namespace(Told {
                netns: fields.netns.ok_or("no netns")?,
                name: fields.name.ok_or("no name")?,
                addresses: fields.addresses.ok_or("no addresses")?,
                listeners: fields.listeners.ok_or("no listeners")?,
                left_out: fields.left_out,
            }),
            Kind::Heard => Content::Heard { heard: fields.heard.ok_or("no heard")? },
            Kind::Losses => Content::Losses { sample: fields.sample.ok_or("no sample")? },
            Kind::Details => Content::Details { events: fields.events.ok_or("no events")? },
            Kind::Tick => Content::Tick(Box::new(Tick {
                at: fields.at.ok_or("no at")?,
                sample: fields.sample.ok_or("no sample")?,
                waiting: fields.waiting,
                syns_repeated: fields.syns_repeated,
                syn_queues_full: fields.syn_queues_full,
                aborting: fields.aborting,
                syn_rung: fields.syn_rung.ok_or("no syn_rung")?,
                ack_rung: fields.ack_rung.ok_or("no ack_rung")?,
                namespaces: fields.namespaces.ok_or("no namespaces")?,
            })),
            Kind::Stopped => Content::Stopped,
        };
        Ok(Self { version, host: fields.host, run, number, content })
    }
}
