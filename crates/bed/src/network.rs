//! The bed itself: a namespace for the server, the manager, each node and the bridge between them.
//!
//! ```text
//!  server  manager  n0   n1  ...      each: eth0, shaped on egress (queue of a host: 1 MiB)
//!    |        |      |    |
//!   p0       p1     p2   p3  ...      ports of br0, shaped on egress (queue of a switch port: 256 KiB)
//! ```
//! The manager is not shaped: trackers and observers cost the race no bandwidth.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::group::Group;
use crate::inside::inside;
use crate::leftovers::{directory, namespace_path, run, sweep_one, sweep_stale, unique_name};
use crate::shape::{Mbit, NODES_MAX, Shape};

/// The bed's subnet: nobody outside can see it.
const SUBNET: [u8; 3] = [10, 78, 0];
/// Bytes that wait in a host for its link: the usual size of a driver's ring with its queue.
const HOST_QUEUE_BYTES: u32 = 1 << 20;
/// Bytes that wait at a switch port: what a small switch has per port.
const PORT_QUEUE_BYTES: u32 = 256 << 10;
/// Must hold the largest burst that the stack hands over at once.
const BURST_BYTES: u32 = 32 << 10;
/// The stack cuts at 64 KiB otherwise, which is twice the burst.
const SEGMENTS_MAX_BYTES: u32 = 16 << 10;
/// First host number of the nodes.
const FIRST_NODE: u8 = 10;

/// Where a program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// Has the file.
    Server,
    /// Beside the race, on a link without shaping.
    Manager,
    /// Wants the file; numbered from 0.
    Node(usize),
}

/// A bed; all of it goes when it is dropped.
#[derive(Debug)]
pub struct Bed {
    name: String,
    shape: Shape,
    dir: PathBuf,
    pub(crate) group: Group,
}

impl Bed {
    /// Removes what dead processes left, then builds a bed.
    ///
    /// # Errors
    /// Not root; iproute2 or nftables is missing; the kernel lacks namespaces, TBF or pressure accounting.
    pub fn new(shape: Shape) -> Result<Self> {
        anyhow::ensure!(nix::unistd::Uid::effective().is_root(), "a bed needs root for network namespaces");
        anyhow::ensure!((1..=NODES_MAX).contains(&shape.nodes), "a bed has 1 to {NODES_MAX} nodes");
        sweep_stale();
        let name = unique_name();
        let dir = directory(&name);
        fs::create_dir(&dir).with_context(|| format!("making {}", dir.display()))?;
        let group = Group::new(&name)?;
        let bed = Self { name, shape, dir, group };
        bed.build()?;
        Ok(bed)
    }

    /// Its shape.
    #[must_use]
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// A directory in memory that goes with the bed.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Address of a place.
    #[must_use]
    pub fn address(&self, place: Place) -> Ipv4Addr {
        let [a, b, c] = SUBNET;
        Ipv4Addr::new(a, b, c, host_number(place))
    }

    /// Path of a place's namespace.
    #[must_use]
    pub fn namespace(&self, place: Place) -> PathBuf {
        namespace_path(&self.namespace_name(place))
    }

    /// Server, manager, nodes.
    pub fn places(&self) -> impl Iterator<Item = Place> + use<> {
        [Place::Server, Place::Manager].into_iter().chain((0..self.shape.nodes).map(Place::Node))
    }

    /// Changes the rate of one node's link, both ways, while it runs.
    ///
    /// # Errors
    /// The bed has no rates.
    pub fn set_rate(&self, node: usize, rate: Mbit) -> Result<()> {
        let place = Place::Node(node);
        let change = |namespace: &str, device: &str, queue| {
            run("tc", ["-n", namespace, "-batch", "-"], &shaping("change", device, rate, queue))
        };
        change(&self.namespace_name(place), "eth0", HOST_QUEUE_BYTES)?;
        change(&self.bridge(), &port(place), PORT_QUEUE_BYTES)?;
        Ok(())
    }

    pub(crate) fn namespace_name(&self, place: Place) -> String {
        match place {
            Place::Server => format!("{}-server", self.name),
            Place::Manager => format!("{}-manager", self.name),
            Place::Node(node) => format!("{}-n{node}", self.name),
        }
    }

    pub(crate) fn bridge(&self) -> String {
        format!("{}-br", self.name)
    }

    fn build(&self) -> Result<()> {
        let bridge = self.bridge();
        let mut namespaces = format!("netns add {bridge}\n");
        for place in self.places() {
            namespaces.push_str(&format!("netns add {}\n", self.namespace_name(place)));
        }
        run("ip", ["-batch", "-"], &namespaces)?;
        let mut links =
            "link add br0 type bridge forward_delay 0 mcast_snooping 0\nlink set br0 up\n".to_owned();
        for place in self.places() {
            let (port, there, mac) = (port(place), self.namespace_name(place), mac(place));
            links.push_str(&format!(
                "link add {port} type veth peer name eth0 address {mac} netns {there}\n\
                 link set {port} master br0 {}\nlink set {port} up\n",
                self.segments()
            ));
        }
        // No address is wanted on the bridge, and no router solicitations in the counts.
        inside(&namespace_path(&bridge), set_up_stack)?;
        run("ip", ["-n", &bridge, "-batch", "-"], &links)?;
        self.places().try_for_each(|place| self.build_host(place))?;
        let ports: String = (self.places())
            .filter_map(|place| Some(shaping("add", &port(place), self.rate_at(place)?, PORT_QUEUE_BYTES)))
            .collect();
        run("tc", ["-n", &bridge, "-batch", "-"], &ports)?;
        Ok(())
    }

    fn build_host(&self, place: Place) -> Result<()> {
        let namespace = self.namespace_name(place);
        let address = self.address(place);
        let [a, b, c] = SUBNET;
        let mut batch = format!(
            "link set lo up\nlink set eth0 {}\n\
             address add {address}/24 brd + dev eth0\nlink set eth0 up\n\
             route replace {a}.{b}.{c}.0/24 dev eth0 proto kernel scope link src {address} congctl cubic\n\
             route add 224.0.0.0/4 dev eth0\n",
            self.segments()
        );
        // All namespaces share one neighbour table of 1,024 entries, of which permanent ones are not counted:
        // a full mesh of 32 would overflow it and the last nodes reach nobody.
        for other in self.places().filter(|other| *other != place) {
            batch.push_str(&format!(
                "neigh replace {} lladdr {} dev eth0 nud permanent\n",
                self.address(other),
                mac(other)
            ));
        }
        inside(&self.namespace(place), set_up_stack)?;
        run("ip", ["-n", &namespace, "-batch", "-"], &batch)?;
        if let Some(rate) = self.rate_at(place) {
            run("tc", ["-n", &namespace, "-batch", "-"], &shaping("add", "eth0", rate, HOST_QUEUE_BYTES))?;
        }
        if self.shape.loss_percent > 0.0 && place != Place::Manager {
            let rules = loss_rules(self.shape.loss_percent);
            run("ip", ["netns", "exec", &namespace, "nft", "-f", "-"], &rules)?;
        }
        Ok(())
    }

    fn rate_at(&self, place: Place) -> Option<Mbit> {
        match place {
            Place::Server => self.shape.rate,
            Place::Manager => None,
            Place::Node(node) => self.shape.rate_of(node),
        }
    }

    /// How large a burst the stack may hand over: with loss single frames, so that loss hits frames.
    fn segments(&self) -> String {
        if self.shape.loss_percent > 0.0 {
            "gso_max_segs 1".to_owned()
        } else if self.shape.rate.is_some() {
            format!("gso_max_size {SEGMENTS_MAX_BYTES}")
        } else {
            // As it is by default.
            "gso_max_size 65536".to_owned()
        }
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        sweep_one(&self.name);
    }
}

/// What each namespace sets for itself.
fn set_up_stack() -> Result<()> {
    for (key, value) in [
        ("ipv6/conf/all/disable_ipv6", "1"),
        ("ipv6/conf/default/disable_ipv6", "1"),
        // One run's congestion must not slow the start of the next.
        ("ipv4/tcp_no_metrics_save", "1"),
    ] {
        let path = Path::new("/proc/sys/net").join(key);
        if path.exists() {
            fs::write(&path, value).with_context(|| format!("writing {}", path.display()))?;
        }
    }
    Ok(())
}

fn shaping(verb: &str, device: &str, rate: Mbit, queue: u32) -> String {
    format!(
        "qdisc {verb} dev {device} root tbf rate {:.0}bit burst {BURST_BYTES} limit {queue}\n",
        rate.0 * 1e6
    )
}

/// Frames lost at random where they arrive, for each receiver by itself.
fn loss_rules(percent: f64) -> String {
    let of_10_000 = percent * 100.0;
    format!(
        "table netdev bed {{\n chain loss {{\n  type filter hook ingress device eth0 priority 0;\n  \
         numgen random mod 10000 < {of_10_000:.0} drop\n }}\n}}\n"
    )
}

pub(crate) fn host_number(place: Place) -> u8 {
    match place {
        Place::Server => 1,
        Place::Manager => 2,
        Place::Node(node) => FIRST_NODE.saturating_add(u8::try_from(node).unwrap_or(u8::MAX)),
    }
}

/// Name of a place's port at the bridge.
pub(crate) fn port(place: Place) -> String {
    format!("p{}", host_number(place))
}

fn mac(place: Place) -> String {
    format!("02:be:d0:00:00:{:02x}", host_number(place))
}
