//! Where connections go whose destination is translated: container ports, Kubernetes Services.
//! kernel: net/netfilter/nf_conntrack_netlink.c (`ctnetlink_dump_table`; the filter by CTA_FILTER
//! is there since 5.8, and an older kernel tells of every entry).
//!
//! An entry has the addresses as the client sent them (CTA_TUPLE_ORIG) and as the answer bears them
//! (CTA_TUPLE_REPLY): where its source is not where the client called, that was translated.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, anyhow, bail};
use netlink_packet_core::{
    DefaultNla, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
    conntrack::{ConntrackAttribute, ConntrackMessage, IPTuple, ProtoTuple, Protocol, Tuple},
};
use netlink_sys::{Socket, SocketAddr as NetlinkAddr, protocols::NETLINK_NETFILTER};

/// `enum ctattr_type`: CTA_FILTER, and its members (include/uapi/linux/netfilter/
/// nfnetlink_conntrack.h).
const CTA_FILTER: u16 = 25;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_FILTER_REPLY_FLAGS: u16 = 2;
const NLA_F_NESTED: u16 = 1 << 15;
/// CTA_FILTER's header and its two members of eight bytes.
const FILTER_SIZE: usize = 4 + 2 * 8;
/// Compare the destination's address, the protocol and the destination's port
/// (net/netfilter/nf_internals.h: CTA_FILTER_F_CTA_IP_DST, …_PROTO_NUM, …_PROTO_DST_PORT).
const DESTINATION: u32 = 1 << 1 | 1 << 3 | 1 << 5;
/// Entries looked at, at most: a table has 262144 by default, and without the filter all come.
const MOST: usize = 300_000;
/// Room for one datagram of a dump.
const DATAGRAM: usize = 64 * 1024;

/// A connection that goes elsewhere than its client believes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Translation {
    /// The client's own end.
    pub client: SocketAddr,
    /// Where it really goes.
    pub to: SocketAddr,
}

/// The connections to `destination` that the calling thread's namespace translates.
///
/// # Errors
///
/// When the kernel does not tell: without its module `nf_conntrack_netlink`, for one.
pub fn translations_here(destination: SocketAddr) -> Result<Vec<Translation>> {
    let destination = SocketAddr::new(destination.ip().to_canonical(), destination.port());
    let mut socket = Socket::new(NETLINK_NETFILTER).context("opening a netfilter socket")?;
    socket.bind_auto().context("binding a netfilter socket")?;
    socket.connect(&NetlinkAddr::new(0, 0)).context("connecting a netfilter socket")?;
    socket.send(&request(destination), 0).context("sending a conntrack request")?;
    let mut found = Vec::new();
    let mut seen = 0;
    let mut buffer = Vec::with_capacity(DATAGRAM);
    loop {
        buffer.clear();
        socket.recv(&mut buffer, 0).context("reading conntrack's answer")?;
        let is_over = take(&buffer, &mut |attributes| {
            seen += 1;
            found.extend(translation(attributes, destination));
        })?;
        if is_over || seen >= MOST {
            found.sort_unstable();
            found.dedup();
            return Ok(found);
        }
    }
}

fn request(destination: SocketAddr) -> Vec<u8> {
    let family = match destination.ip() {
        IpAddr::V4(_) => NetfilterProtoFamily::IPv4,
        IpAddr::V6(_) => NetfilterProtoFamily::IPv6,
    };
    let tuple = vec![
        Tuple::Ip(vec![IPTuple::DestinationAddress(destination.ip())]),
        Tuple::Proto(vec![
            ProtoTuple::Protocol(Protocol::Tcp),
            ProtoTuple::DestinationPort(destination.port()),
        ]),
    ];
    let flag = |kind: u16, flags: u32| {
        [&8_u16.to_ne_bytes()[..], &kind.to_ne_bytes(), &flags.to_ne_bytes()].concat()
    };
    let filter = [flag(CTA_FILTER_ORIG_FLAGS, DESTINATION), flag(CTA_FILTER_REPLY_FLAGS, 0)];
    let attributes = vec![
        ConntrackAttribute::CtaTupleOrig(tuple),
        ConntrackAttribute::Other(DefaultNla::new(CTA_FILTER, filter.concat())),
    ];
    let question = NetfilterMessage::new(
        NetfilterHeader::new(family, 0, 0),
        ConntrackMessage::Get(attributes),
    );
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(question));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    // The filter comes last. The library writes no flag with an attribute that it does not know, and
    // without this one the kernel takes no filter (`nla_parse_nested`).
    let kind = bytes.len() - FILTER_SIZE + size_of::<u16>();
    bytes[kind..kind + size_of::<u16>()]
        .copy_from_slice(&(CTA_FILTER | NLA_F_NESTED).to_ne_bytes());
    bytes
}

/// Takes in one datagram of the answer; true at its end.
fn take(mut bytes: &[u8], each: &mut impl FnMut(&[ConntrackAttribute])) -> Result<bool> {
    while !bytes.is_empty() {
        let message = NetlinkMessage::<NetfilterMessage>::deserialize(bytes)
            .map_err(|error| anyhow!("cannot decode conntrack's answer: {error}"))?;
        match message.payload {
            NetlinkPayload::Done(_) => return Ok(true),
            NetlinkPayload::Error(error) => bail!("conntrack answered with an error: {error}"),
            NetlinkPayload::InnerMessage(NetfilterMessage {
                inner: NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)),
                ..
            }) => each(&attributes),
            _ => {}
        }
        let length = (message.header.length as usize).next_multiple_of(4).max(16);
        bytes = bytes.get(length..).unwrap_or_default();
    }
    Ok(false)
}

/// Source and destination of a TCP tuple.
fn ends(tuple: &[Tuple]) -> Option<(SocketAddr, SocketAddr)> {
    let (mut from, mut to, mut from_port, mut to_port, mut is_tcp) =
        (None, None, None, None, false);
    for part in tuple {
        match part {
            Tuple::Ip(addresses) => addresses.iter().for_each(|address| match address {
                IPTuple::SourceAddress(ip) => from = Some(*ip),
                IPTuple::DestinationAddress(ip) => to = Some(*ip),
                _ => {}
            }),
            Tuple::Proto(protocol) => protocol.iter().for_each(|part| match part {
                ProtoTuple::Protocol(protocol) => is_tcp = *protocol == Protocol::Tcp,
                ProtoTuple::SourcePort(port) => from_port = Some(*port),
                ProtoTuple::DestinationPort(port) => to_port = Some(*port),
                _ => {}
            }),
            _ => {}
        }
    }
    is_tcp.then_some(())?;
    Some((SocketAddr::new(from?, from_port?), SocketAddr::new(to?, to_port?)))
}

fn translation(attributes: &[ConntrackAttribute], destination: SocketAddr) -> Option<Translation> {
    let (mut original, mut reply) = (None, None);
    for attribute in attributes {
        match attribute {
            ConntrackAttribute::CtaTupleOrig(tuple) => original = ends(tuple),
            ConntrackAttribute::CtaTupleReply(tuple) => reply = ends(tuple),
            _ => {}
        }
    }
    let ((client, called), (answers, _)) = (original?, reply?);
    (called == destination && answers != called).then_some(Translation { client, to: answers })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuple(from: &str, to: &str) -> Vec<Tuple> {
        let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
        vec![
            Tuple::Ip(vec![
                IPTuple::SourceAddress(from.ip()),
                IPTuple::DestinationAddress(to.ip()),
            ]),
            Tuple::Proto(vec![
                ProtoTuple::Protocol(Protocol::Tcp),
                ProtoTuple::SourcePort(from.port()),
                ProtoTuple::DestinationPort(to.port()),
            ]),
        ]
    }

    #[test]
    fn what_answers_from_elsewhere_was_translated() {
        let service: SocketAddr = "10.96.0.1:80".parse().unwrap();
        let entry = |reply: &str| {
            [
                ConntrackAttribute::CtaTupleOrig(tuple("10.0.0.9:40000", "10.96.0.1:80")),
                ConntrackAttribute::CtaTupleReply(tuple(reply, "10.0.0.9:40000")),
            ]
        };
        let found = translation(&entry("10.0.0.2:8000"), service).unwrap();
        assert_eq!(found.client, "10.0.0.9:40000".parse().unwrap());
        assert_eq!(found.to, "10.0.0.2:8000".parse().unwrap());
        assert_eq!(translation(&entry("10.96.0.1:80"), service), None);
        // A kernel without the filter tells of all.
        assert_eq!(translation(&entry("10.0.0.2:8000"), "10.96.0.2:80".parse().unwrap()), None);
    }

    #[test]
    fn a_damaged_answer_is_refused() {
        assert!(take(&[1, 2, 3], &mut |_| ()).is_err());
    }
}
