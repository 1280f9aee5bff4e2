//! A DHCP exchange over a pair of virtual Ethernet interfaces in a network namespace of its own.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use dhcp_wire::{
    MacAddr, Message, MessageKind, NODE_PORT, PACKET_BYTES_MAX, PacketView, SERVER_PORT, code, unwrap_udp,
    wrap_udp,
};
use nix::sched::{CloneFlags, unshare};

use super::link;
use super::nic::Interface;
use crate::net::dhcp;
use crate::sys::packet::PacketSocket;

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
const NODE: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 7);

/// Runs `story` in a new network namespace; says so where that is not allowed.
fn in_namespace(story: impl FnOnce() + Send + 'static) {
    let ran = std::thread::spawn(move || match unshare(CloneFlags::CLONE_NEWNET) {
        Ok(()) => {
            story();
            true
        }
        Err(error) => {
            eprintln!("skipped: no network namespace here: {error}");
            false
        }
    });
    ran.join().unwrap();
}

async fn make_pair() -> (Interface, Interface) {
    let (connection, handle, _) = rtnetlink::new_connection().unwrap();
    tokio::spawn(connection);
    handle.link().add(rtnetlink::LinkVeth::new("node", "server").build()).execute().await.unwrap();
    let node = interface("node");
    let server = interface("server");
    link::set_up(&node).unwrap();
    link::set_up(&server).unwrap();
    (node, server)
}

fn interface(name: &str) -> Interface {
    let index = nix::net::if_::if_nametoindex(name).unwrap();
    Interface {
        name: name.into(),
        index,
        mac: MacAddr([2, 0, 0, 0, 0, 9]),
        management: false,
        directory: PathBuf::new(),
    }
}

/// Answers one packet as a server would; `None` for what is not for it.
fn answer(packet: &[u8], lease_s: u32) -> Option<Vec<u8>> {
    let datagram = unwrap_udp(packet).filter(|datagram| datagram.destination.port() == SERVER_PORT)?;
    let request = PacketView::new(datagram.payload).ok()?;
    let kind = match request.kind()? {
        MessageKind::Discover => MessageKind::Offer,
        MessageKind::Request => MessageKind::Ack,
        _ => return None,
    };
    let mut message = Message::answer(&request, kind)?;
    message.set_yiaddr(NODE).set_address(code::SERVER_ID, SERVER);
    message.set_number(code::LEASE_TIME, lease_s);
    message.set_address(code::SUBNET_MASK, Ipv4Addr::new(255, 255, 255, 0));
    message.set_addresses(code::ROUTER, &[SERVER]).ok()?;
    let from = std::net::SocketAddrV4::new(SERVER, SERVER_PORT);
    let to = std::net::SocketAddrV4::new(Ipv4Addr::BROADCAST, NODE_PORT);
    wrap_udp(from, to, &message.encode().ok()?)
}

/// Ignores the first `deaf` packets, then answers for ever.
fn serve(socket: PacketSocket, mut deaf: u32) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        let mut buffer = vec![0; PACKET_BYTES_MAX + 100];
        loop {
            match socket.receive(&mut buffer) {
                Ok(_) if deaf > 0 => deaf -= 1,
                Ok(length) => {
                    if let Some(packet) = answer(&buffer[..length], 600) {
                        socket.broadcast(&packet).unwrap();
                    }
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    })
}

/// Sends its only offer, for the first question, when the node asks for the second time.
fn serve_late(socket: PacketSocket) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        let mut buffer = vec![0; PACKET_BYTES_MAX + 100];
        let mut offers = Vec::new();
        loop {
            let Ok(length) = socket.receive(&mut buffer) else {
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            };
            let Some(packet) = answer(&buffer[..length], 600) else { continue };
            let kind = unwrap_udp(&packet).and_then(|sent| PacketView::new(sent.payload).ok()?.kind());
            if kind == Some(MessageKind::Ack) {
                socket.broadcast(&packet).unwrap();
            } else {
                offers.push(packet);
                if offers.len() == 2 {
                    socket.broadcast(&offers[0]).unwrap();
                }
            }
        }
    })
}

fn block_on(story: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(story);
}

#[test]
fn node_gets_its_address_also_when_the_first_packet_is_lost() {
    in_namespace(|| {
        block_on(async {
            let (node, server) = make_pair().await;
            let serving = serve(PacketSocket::open(server.index).unwrap(), 1);
            let lease = dhcp::acquire(&node, Duration::from_secs(20)).await.unwrap();
            assert_eq!((lease.address, lease.prefix_len, lease.server), (NODE, 24, SERVER));
            // Twice, as an agent that was started again does.
            link::configure(&node, &lease).unwrap();
            link::configure(&node, &lease).unwrap();
            let route = std::fs::read_to_string("/proc/thread-self/net/route").unwrap();
            assert!(route.contains("node\t00000000\t0100630A"), "default route by 10.99.0.1: {route}");
            serving.abort();
        });
    });
}

#[test]
fn offer_that_comes_after_the_next_question_is_taken() {
    in_namespace(|| {
        block_on(async {
            let (node, server) = make_pair().await;
            let serving = serve_late(PacketSocket::open(server.index).unwrap());
            let lease = dhcp::acquire(&node, Duration::from_secs(20)).await.unwrap();
            assert_eq!((lease.address, lease.server), (NODE, SERVER));
            serving.abort();
        });
    });
}

#[test]
fn silent_network_is_an_error_that_names_the_interface() {
    in_namespace(|| {
        block_on(async {
            let (node, _server) = make_pair().await;
            let error = dhcp::acquire(&node, Duration::from_millis(300)).await.unwrap_err();
            assert!(error.to_string().contains("on node within"), "{error}");
        });
    });
}
