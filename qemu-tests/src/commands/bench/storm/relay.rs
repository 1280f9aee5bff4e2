//! DHCP for all nodes through one socket, as a relay agent does it (RFC 2131 section 4.1, `giaddr`).
//!
//! Never broadcasts; never asks for a node that does not wait.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use dhcp_wire::{MacAddr, Message, MessageKind, PacketView, SERVER_PORT, code};
use tokio::net::UdpSocket;
use tokio::sync::oneshot;

use super::faults::Faults;
use crate::commands::bench::boot_bed::RELAY;

/// Waits for an answer double from here, as EDK2's and iPXE's do.
const WAIT_FIRST: Duration = Duration::from_secs(1);
const TRIES: u32 = 7;
const PACKET_BYTES_MAX: usize = 2048;

/// An answer as far as nodes care.
#[derive(Clone, Debug)]
struct Heard {
    kind: MessageKind,
    address: Ipv4Addr,
    server: Option<Ipv4Addr>,
    boot_file: String,
}

/// The relay. Dropping the last handle ends it.
pub(super) struct Relay {
    socket: UdpSocket,
    server: SocketAddrV4,
    waiting: Mutex<HashMap<u32, oneshot::Sender<Heard>>>,
}

impl Relay {
    /// Opens the relay's port and begins to listen.
    pub(super) async fn start(server: Ipv4Addr) -> Result<Arc<Self>> {
        let socket = UdpSocket::bind((RELAY, SERVER_PORT)).await.context("opening the relay's port")?;
        let server = SocketAddrV4::new(server, SERVER_PORT);
        let relay = Arc::new(Self { socket, server, waiting: Mutex::default() });
        let listening = Arc::downgrade(&relay);
        tokio::spawn(async move {
            let mut buffer = vec![0; PACKET_BYTES_MAX];
            while let Some(relay) = listening.upgrade() {
                let Ok((len, _)) = relay.socket.recv_from(&mut buffer).await else { continue };
                if let Some((xid, heard)) = buffer.get(..len).and_then(read)
                    && let Some(waiting) = relay.waiting().remove(&xid)
                {
                    let _ = waiting.send(heard);
                }
            }
        });
        Ok(relay)
    }

    /// Discover, offer, request, acknowledgement: the node's address and its boot file. `faults` loses answers.
    pub(super) async fn lease(
        &self,
        mac: MacAddr,
        xid: u32,
        class: Class,
        faults: &mut Faults,
    ) -> Result<(Ipv4Addr, String)> {
        let discover = class.message(MessageKind::Discover, mac, xid)?.encode()?;
        for _ in 0..2 {
            let offer = self.ask(&discover, xid, faults).await.context("no offer")?;
            let mut request = class.message(MessageKind::Request, mac, xid)?;
            request.set_address(code::REQUESTED_ADDRESS, offer.address);
            request.set_address(code::SERVER_ID, offer.server.unwrap_or(*self.server.ip()));
            let answer = self.ask(&request.encode()?, xid, faults).await.context("no acknowledgement")?;
            if answer.kind == MessageKind::Ack {
                return Ok((answer.address, answer.boot_file));
            }
        }
        bail!("the server offers an address and takes it back")
    }

    async fn ask(&self, message: &[u8], xid: u32, faults: &mut Faults) -> Result<Heard> {
        let mut wait = WAIT_FIRST;
        for _ in 0..TRIES {
            let (tell, heard) = oneshot::channel();
            self.waiting().insert(xid, tell);
            self.socket.send_to(message, self.server).await?;
            let heard = tokio::time::timeout(wait, heard).await;
            wait *= 2;
            if let Ok(Ok(heard)) = heard
                && !faults.strikes()
            {
                return Ok(heard);
            }
        }
        bail!("silence after {TRIES} tries")
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<u32, oneshot::Sender<Heard>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(bytes: &[u8]) -> Option<(u32, Heard)> {
    let view = PacketView::new(bytes).ok()?;
    let (mut server, mut boot_file) = (None, String::new());
    for (option, value) in view.options() {
        match option {
            code::SERVER_ID => server = <[u8; 4]>::try_from(value).ok().map(Ipv4Addr::from),
            code::BOOT_FILE => boot_file = String::from_utf8_lossy(value).trim_end_matches('\0').to_owned(),
            _ => {}
        }
    }
    Some((view.xid(), Heard { kind: view.kind()?, address: view.yiaddr(), server, boot_file }))
}

/// Which program of the node asks.
#[derive(Clone, Copy, Debug)]
pub(super) enum Class {
    Firmware,
    Ipxe,
}

impl Class {
    fn message(self, kind: MessageKind, mac: MacAddr, xid: u32) -> Result<Message> {
        let mut message = Message::from_node(kind, mac, xid);
        message.set_giaddr(RELAY);
        message.set_bytes(code::VENDOR_CLASS, b"PXEClient:Arch:00007:UNDI:003016")?;
        message.set_bytes(code::ARCHITECTURE, &[0, 7])?;
        message.set_bytes(code::NETWORK_INTERFACE, &[1, 3, 16])?;
        if matches!(self, Self::Ipxe) {
            message.set_bytes(code::USER_CLASS, b"iPXE")?;
            // Menu, bzImage, HTTP and EFI, as iPXE says it.
            message.set_bytes(code::IPXE, &[0x27, 1, 1, 0x18, 1, 1, 0x13, 1, 1, 0x24, 1, 1])?;
        }
        Ok(message)
    }
}
