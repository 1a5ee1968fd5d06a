//! The thread of a stack: waits for the guest, the host's sockets and the clock.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::{Events, Poll, Token, Waker};
use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::time::Instant as Time;
use smoltcp::wire::{HardwareAddress, IpCidr, IpProtocol};

use super::counters::Counters;
use super::guest_link::{GuestLink, Wire};
use super::questions::{Asked, Streams};
use super::tcp::{Connection, Context, Key, Next, fail};
use super::udp::Flow;
use crate::dhcp;
use crate::dns::{Answered, Asker, Names, Resolver};
use crate::network::{Decision, Network};
use crate::packet::{
    Content, Datagram, FRAME_HEADER, Packet, Unreachable, answer_arp, datagram, read_frame,
    read_packet,
};
use crate::policy::Protocol;
use crate::segment::{
    AddressOwner, DNS_PORT, GATEWAY_V4, GATEWAY_V6, MTU, PREFIX_V4, PREFIX_V6, owner_of,
};

const WAKER: Token = Token(0);
/// Tokens from here on are given out in turn, and never twice.
const FIRST: usize = 1;
/// Frames of the guest that one turn takes; the sockets of the host get theirs in between.
const TURN: usize = 64;
/// Flows of datagrams. Beyond that, the one that was idle for longest is closed.
const MOST_FLOWS: usize = 512;
const EVENTS: usize = 256;

/// What the owner of a stack asks for.
#[derive(Debug)]
pub(super) enum Command {
    Renew(UnixDatagram),
    Stop,
}

/// The state of a stack.
pub(super) struct Loop {
    network: Network,
    poll: Poll,
    commands: Receiver<Command>,
    counters: Arc<Counters>,
    link: GuestLink,
    link_token: Token,
    /// A frame's length, for frames and datagrams.
    buffer: Vec<u8>,
    interface: Interface,
    start: Instant,
    next_token: usize,
    connections: BTreeMap<Token, Connection>,
    connection_of: HashMap<Key, Token>,
    flows: BTreeMap<Token, Flow>,
    flow_of: HashMap<Key, Token>,
    streams: Streams,
    resolver: Resolver,
    names: Names,
    /// The guest has used up its bytes.
    is_spent: bool,
}

impl Loop {
    pub(super) fn new(
        network: Network,
        servers: Vec<SocketAddr>,
        socket: UnixDatagram,
        commands: Receiver<Command>,
        counters: Arc<Counters>,
    ) -> io::Result<(Self, Waker)> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKER)?;
        let link_token = Token(FIRST);
        let mut link = GuestLink::new(socket, network.rate(), (poll.registry(), link_token))?;
        let start = Instant::now();
        let interface = interface(&mut link);
        let served = Self {
            network,
            poll,
            commands,
            counters,
            link,
            link_token,
            buffer: vec![0; FRAME_HEADER + usize::from(MTU)],
            interface,
            start,
            next_token: FIRST + 1,
            connections: BTreeMap::new(),
            connection_of: HashMap::new(),
            flows: BTreeMap::new(),
            flow_of: HashMap::new(),
            streams: Streams::default(),
            resolver: Resolver::new(servers),
            names: Names::default(),
            is_spent: false,
        };
        Ok((served, waker))
    }

    /// Serves until a stop command arrives or waiting fails.
    pub(super) fn run(&mut self) {
        let mut events = Events::with_capacity(EVENTS);
        let mut wait = None;
        loop {
            if let Err(error) = self.poll.poll(&mut events, wait)
                && error.kind() != io::ErrorKind::Interrupted
            {
                return;
            }
            for event in &events {
                match event.token() {
                    WAKER => {
                        if !self.take_commands() {
                            return;
                        }
                    }
                    token if token == self.link_token => {}
                    token => self.ready(token, event),
                }
            }
            // The link is looked at each time: it may have been left with frames in it.
            let more = self.serve_link();
            self.check_spent();
            let next = self.pass_time();
            wait = if more { Some(Duration::ZERO) } else { next };
        }
    }

    /// Returns `false` at the end.
    fn take_commands(&mut self) -> bool {
        loop {
            match self.commands.try_recv() {
                Ok(Command::Renew(socket)) => {
                    if self.renew(socket).is_err() {
                        return false;
                    }
                }
                Err(TryRecvError::Empty) => return true,
                Ok(Command::Stop) | Err(TryRecvError::Disconnected) => {
                    self.close();
                    return false;
                }
            }
        }
    }

    fn renew(&mut self, socket: UnixDatagram) -> io::Result<()> {
        self.close();
        self.link_token = self.token();
        let registered = (self.poll.registry(), self.link_token);
        self.link = GuestLink::new(socket, self.network.rate(), registered)?;
        self.is_spent = false;
        Ok(())
    }

    /// Closes all flows, and forgets what the guest has asked.
    fn close(&mut self) {
        self.connections.values().for_each(Connection::abandon);
        self.connections.clear();
        self.connection_of.clear();
        self.flows.clear();
        self.flow_of.clear();
        self.streams.clear();
        self.resolver.clear();
        self.names = Names::default();
        self.count();
    }

    /// Closes all flows once the guest has used up its bytes.
    fn check_spent(&mut self) {
        let Some(bytes) = self.network.max_bytes().filter(|most| self.link.passed() >= *most)
        else {
            return;
        };
        if !std::mem::replace(&mut self.is_spent, true) {
            self.network.report(|| Decision::Spent { bytes });
            self.close();
        }
    }

    /// Takes frames of the guest. Returns whether there may be more.
    fn serve_link(&mut self) -> bool {
        let was_waiting = self.link.is_waiting();
        if self.link.flush() {
            self.serve_all();
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut taken = 0;
        while taken < TURN
            && let Some(frame) = self.link.receive(&mut buffer)
        {
            self.take_frame(frame);
            taken += 1;
        }
        self.buffer = buffer;
        if was_waiting || self.link.is_waiting() {
            // If the link cannot be watched, the guest's frames are not answered any more.
            let _ = self.link.watch(self.poll.registry());
        }
        taken == TURN
    }

    fn take_frame(&mut self, frame: &[u8]) {
        let Some((sender, content)) = read_frame(frame) else { return };
        self.link.set_guest(sender);
        let packet = match content {
            Content::Arp(request) => {
                if let Some(answer) = answer_arp(request) {
                    self.link.send(answer);
                }
                return;
            }
            Content::Ip(bytes) => read_packet(bytes),
        };
        let Some(packet) = packet else { return };
        // A guest that asks for its address has none yet.
        if let Some(message) = request_for_address(&packet) {
            if let Some(answer) = dhcp::answer(message) {
                self.link.send_packet(&answer);
            }
            return;
        }
        match packet.protocol {
            IpProtocol::Icmp | IpProtocol::Icmpv6 => {
                if let Some(answer) = packet.answer() {
                    self.link.send_packet(&answer);
                }
            }
            // What does not come from the guest's own address has no way back.
            _ if owner_of(packet.source) != AddressOwner::Guest => {}
            IpProtocol::Tcp => self.take_segment(&packet),
            IpProtocol::Udp => {
                if let Some(datagram) = packet.datagram() {
                    self.take_datagram(&packet, datagram);
                }
            }
            _ => self.refuse(&packet, Unreachable::Forbidden),
        }
    }

    fn take_segment(&mut self, packet: &Packet<'_>) {
        let Some(segment) = packet.segment() else { return };
        let key = (segment.source, segment.destination);
        if let Some(token) = self.connection_of.get(&key).copied() {
            self.with_connection(token, |connection, context| {
                connection.take(packet.bytes, context)
            });
            return;
        }
        if let Some(token) = self.streams.find(&key) {
            return self.with_streams(token, |streams, context| {
                streams.take(token, packet.bytes, context)
            });
        }
        if !segment.is_first {
            // Of a connection that is not there, perhaps of a life before: reset, unless it is one.
            self.context().poll(&mut SocketSet::new(Vec::new()), Some(packet.bytes));
            return;
        }
        if owner_of(packet.destination) == AddressOwner::Gateway {
            if segment.destination.port() == DNS_PORT {
                let token = self.token();
                return self.in_streams(|streams, context| {
                    streams.begin(token, key, packet.bytes, context);
                });
            }
            self.context().poll(&mut SocketSet::new(Vec::new()), Some(packet.bytes));
            return;
        }
        let Some(target) = self.decide(Protocol::Tcp, segment.destination) else {
            return self.refuse(packet, Unreachable::Forbidden);
        };
        if self.connections.len() >= self.network.max_connections() {
            return self.refuse(packet, Unreachable::NoWay);
        }
        let token = self.token();
        self.counters.opened();
        match Connection::begin(key, target, packet.bytes, (self.poll.registry(), token)) {
            Ok(connection) => {
                self.connections.insert(token, connection);
                self.connection_of.insert(key, token);
                self.count();
            }
            Err(error) => fail(packet.bytes, &error, &mut self.context()),
        }
    }

    fn take_datagram(&mut self, packet: &Packet<'_>, datagram: Datagram<'_>) {
        let key = (datagram.source, datagram.destination);
        match owner_of(packet.destination) {
            AddressOwner::Gateway if datagram.destination.port() == DNS_PORT => {
                let asker = Asker::Datagram { guest: key.0, gateway: key.1 };
                let (answered, _) = self.ask(asker, datagram.payload);
                return self.answer(answered);
            }
            AddressOwner::Gateway => return self.refuse(packet, Unreachable::NoPort),
            // Groups are not routed, and get no answers.
            AddressOwner::Outside if is_group(packet.destination) => return,
            _ => {}
        }
        let token = match self.flow_of.get(&key) {
            Some(token) => *token,
            None => match self.open_flow(key) {
                Ok(token) => token,
                Err(why) => return self.refuse(packet, why),
            },
        };
        let sent = self.flows.get_mut(&token).map(|flow| flow.send(datagram.payload));
        if sent.is_some_and(|sent| sent.is_err()) {
            // The peer has refused an earlier one, or the datagram is too large for the host.
            self.refuse(packet, Unreachable::NoPort);
        }
    }

    fn open_flow(&mut self, key: Key) -> Result<Token, Unreachable> {
        let target = self.decide(Protocol::Udp, key.1).ok_or(Unreachable::Forbidden)?;
        if self.flows.len() >= MOST_FLOWS {
            let oldest = self.flows.iter().min_by_key(|(_, flow)| flow.used);
            if let Some(token) = oldest.map(|(token, _)| *token) {
                self.close_flow(token);
            }
        }
        let token = self.token();
        self.counters.opened();
        let flow = Flow::open(key, target, (self.poll.registry(), token));
        let flow = flow.map_err(|_| Unreachable::NoWay)?;
        self.flows.insert(token, flow);
        self.flow_of.insert(key, token);
        Ok(token)
    }

    fn close_flow(&mut self, token: Token) {
        if let Some(flow) = self.flows.remove(&token) {
            self.flow_of.remove(&flow.key);
        }
    }

    /// Asks the resolver. Returns its answer if it has one already, and whether there will be one.
    fn ask(&mut self, asker: Asker, question: &[u8]) -> (Option<Answered>, bool) {
        if self.is_spent {
            return (None, false);
        }
        let token = self.token();
        let registry = (self.poll.registry(), token);
        let answered = self.resolver.ask(asker, question, &self.network, registry);
        let is_pending = self.resolver.has(token);
        if is_pending {
            self.counters.opened();
        }
        let is_answered = is_pending || answered.is_some();
        (answered, is_answered)
    }

    fn answer(&mut self, answered: Option<Answered>) {
        let Some(Answered { asker, message }) = answered else { return };
        match asker {
            Asker::Datagram { guest, gateway } => {
                if let Some(packet) = datagram(gateway, guest, &message) {
                    self.link.send_packet(&packet);
                }
            }
            Asker::Connection(token) => self
                .with_streams(token, |streams, context| streams.answer(token, &message, context)),
        }
    }

    /// Does something with a connection to the name server, and asks what comes over it then.
    fn with_streams(
        &mut self,
        token: Token,
        work: impl FnOnce(&mut Streams, &mut Context<'_>) -> Asked,
    ) {
        let mut asked = VecDeque::from(self.in_streams(work));
        while let Some(question) = asked.pop_front() {
            let (answered, is_answered) = self.ask(Asker::Connection(token), &question);
            asked.extend(self.in_streams(|streams, context| match answered {
                Some(Answered { message, .. }) => streams.answer(token, &message, context),
                None if is_answered => Asked::new(),
                None => streams.fail(token, context),
            }));
        }
    }

    fn in_streams<T>(&mut self, work: impl FnOnce(&mut Streams, &mut Context<'_>) -> T) -> T {
        let Self { streams, interface, link, start, .. } = self;
        work(streams, &mut Context { interface, link, start: *start })
    }

    /// Decides about a new flow.
    fn decide(&mut self, protocol: Protocol, to: SocketAddr) -> Option<SocketAddr> {
        let names = self.names.of(to.ip(), Instant::now());
        let target = self.network.target(protocol, to, &names).filter(|_| !self.is_spent);
        if target.is_none() {
            self.counters.refused();
        }
        let is_allowed = target.is_some();
        self.network.report(|| Decision::Flow { protocol, to, names, is_allowed });
        target
    }

    fn refuse(&mut self, packet: &Packet<'_>, why: Unreachable) {
        if let Some(error) = packet.error(why) {
            self.link.send_packet(&error);
        }
    }

    /// Serves an event of a socket of the host.
    fn ready(&mut self, token: Token, event: &Event) {
        if self.connections.contains_key(&token) {
            let count = self.connections.len();
            self.with_connection(token, |connection, context| {
                connection.ready(event, count, context)
            });
        } else if let Some(flow) = self.flows.get_mut(&token) {
            flow.receive(&mut self.buffer, &mut self.link, (self.poll.registry(), token));
        } else if self.resolver.has(token) {
            let answered = self.resolver.ready(token, &self.network, &mut self.names);
            self.answer(answered);
        }
    }

    /// Has every connection go on: the link has room again.
    fn serve_all(&mut self) {
        let tokens: Vec<_> = self.connections.keys().copied().collect();
        for token in tokens {
            self.with_connection(token, |connection, context| connection.serve(context));
        }
    }

    /// Serves what is due. Returns how long there is nothing to do.
    fn pass_time(&mut self) -> Option<Duration> {
        let now = Instant::now();
        let is_due =
            |connection: &Connection| connection.deadline.is_some_and(|deadline| deadline <= now);
        let due = self.connections.iter().filter(|(_, connection)| is_due(connection));
        let due: Vec<_> = due.map(|(token, _)| *token).collect();
        for token in due {
            self.with_connection(token, |connection, context| connection.serve(context));
        }
        let idle = self.flows.iter().filter(|(_, flow)| flow.end() <= now);
        let idle: Vec<_> = idle.map(|(token, _)| *token).collect();
        idle.into_iter().for_each(|token| self.close_flow(token));
        let of_streams = self.in_streams(|streams, context| streams.pass_time(now, context));
        let next = [
            of_streams,
            self.resolver.pass_time(now),
            self.connections.values().filter_map(|connection| connection.deadline).min(),
            self.flows.values().map(Flow::end).min(),
            self.link.opens_at(),
        ];
        let next = next.into_iter().flatten().min()?;
        // Rounded up, so that it is due then.
        Some(next.saturating_duration_since(now) + Duration::from_millis(1))
    }

    fn with_connection(
        &mut self,
        token: Token,
        work: impl FnOnce(&mut Connection, &mut Context<'_>) -> Next,
    ) {
        let Self { connections, interface, link, start, .. } = self;
        let Some(connection) = connections.get_mut(&token) else { return };
        let mut context = Context { interface, link, start: *start };
        if work(connection, &mut context) == Next::Remove {
            let key = connection.key;
            self.connections.remove(&token);
            self.connection_of.remove(&key);
            self.count();
        }
    }

    fn context(&mut self) -> Context<'_> {
        Context { interface: &mut self.interface, link: &mut self.link, start: self.start }
    }

    fn token(&mut self) -> Token {
        self.next_token += 1;
        Token(self.next_token)
    }

    fn count(&self) {
        self.counters.connections.store(self.connections.len(), Ordering::Relaxed);
    }
}

/// An interface that takes packets to every address.
fn interface(link: &mut GuestLink) -> Interface {
    use std::hash::{BuildHasher, RandomState};

    let mut config = Config::new(HardwareAddress::Ip);
    // For the first numbers of connections.
    config.random_seed = RandomState::new().hash_one(0);
    let mut wire = Wire { link, packet: None };
    let mut interface = Interface::new(config, &mut wire, Time::ZERO);
    interface.update_ip_addrs(|addresses| {
        // There is room for two.
        let _ = addresses.push(IpCidr::new(IpAddr::from(GATEWAY_V4).into(), PREFIX_V4));
        let _ = addresses.push(IpCidr::new(IpAddr::from(GATEWAY_V6).into(), PREFIX_V6));
    });
    interface.set_any_ip(true);
    interface
}

/// The message to the server of addresses, if the packet is one.
fn request_for_address<'a>(packet: &Packet<'a>) -> Option<&'a [u8]> {
    let is_for_server = packet.protocol == IpProtocol::Udp
        && [Ipv4Addr::BROADCAST, GATEWAY_V4].map(IpAddr::V4).contains(&packet.destination);
    let datagram = is_for_server.then(|| packet.datagram()).flatten()?;
    (datagram.destination.port() == dhcp::SERVER_PORT).then_some(datagram.payload)
}

fn is_group(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_multicast() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_multicast(),
    }
}
