//! `pxe-server serve`: opens everything, starts everything, stops everything.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use node_api::paths;
use site_file::{Site, Untrusted};
use store::Store;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use crate::api::blocking;
use crate::app::App;
use crate::boot_sharing::BootSharing;
use crate::bundle::{Bundle, DEFAULT_BUNDLE};
use crate::clock::now_unix_ms;
use crate::deltas::Deltas;
use crate::deployments::Deployments;
use crate::disk_keys::DiskKeys;
use crate::events::Events;
use crate::fetches::Fetches;
use crate::images::{ImageRules, Images};
use crate::keys::Keys;
use crate::menus::{Current, OnceBook};
use crate::netboot::{BOOT_FILES_DIR, Netboot, NetbootConfig};
use crate::nodes::{NodeRules, Nodes};
use crate::policy::{Policy, Relays};
use crate::privileges::Bound;
use crate::reload::{self, Running, SiteSource};
use crate::state::StateDir;
use crate::swarm_service::SwarmService;
use crate::tasks::TaskMaker;
use crate::tls::{self, Stop};
use crate::{admin_api, agent_api};

/// Silence, finished deployments and old tokens are looked for so often.
const TICK: Duration = Duration::from_secs(1);
/// Old tokens and machines that never came are forgotten every so many ticks.
const PRUNE_TICKS: u64 = 600;
/// Where delta images are kept, in the state directory.
const DELTAS: &str = "deltas";
/// Parts that are told to stop get so long.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// What was opened from the state directory and the site; nothing runs yet.
struct Opened {
    state: StateDir,
    store: Store,
    keys: Keys,
    images: Images,
    deltas: Deltas,
    bundle: Arc<Bundle>,
    nodes: Arc<Nodes>,
}

/// The booting half: with netboot, or only the tracker for sites that boot otherwise.
struct Front {
    netboot: Option<Netboot>,
    address: Ipv4Addr,
}

/// Serves until SIGTERM or SIGINT.
pub(crate) async fn serve(
    site: Site,
    source: SiteSource,
    state: &std::path::Path,
    bound: Option<Bound>,
) -> Result<()> {
    let opened = open(&site, state)?;
    let current = Arc::new(Current::new(site.changeable()));
    let swarm = Arc::new(SwarmService::new(Arc::clone(&opened.nodes), site.peer_port, site.swarm_open)?);
    // Bound before anything is answered: a second server, or a port in use, ends here.
    let agent_listener =
        bind((listen_address(&site), site.agent_port).into(), "agent API", "agent_port").await?;
    let admin_listener = bind(site.admin, "admin API", "admin").await?;
    let admin_address = admin_listener.local_addr().context("asking for the admin API's address")?;
    let (stopper, stop) = Stop::new();
    let mut parts = JoinSet::new();
    let relays = Arc::new(Relays::default());
    let front = start_front(&site, (&opened, &current, &relays), &swarm, &stop, &mut parts).await?;
    let _state = opened.state;
    let app = Arc::new(App {
        nodes: opened.nodes,
        deployments: Deployments::open(opened.store)?,
        tasks: task_maker(
            &site,
            (opened.keys.task, opened.keys.disks),
            front.address,
            (Arc::clone(&current), relays),
        ),
        site,
        images: opened.images,
        deltas: opened.deltas,
        boot_peers: BootSharing::new(front.netboot.as_ref(), &opened.bundle)?,
        bundle: opened.bundle,
        swarm,
        started_unix_ms: now_unix_ms(),
    });
    start_seeds(&app).await?;
    let events = Arc::new(Events::new());
    parts.spawn(tls::serve(
        agent_listener,
        Some(opened.keys.tls),
        agent_api::router(Arc::clone(&app)),
        stop.clone(),
    ));
    let admin_router = admin_api::router(Arc::clone(&app), Arc::clone(&events));
    parts.spawn(tls::serve(admin_listener, None, admin_router, stop.clone()));
    parts.spawn(Arc::clone(&events).run(Arc::clone(&app), stop.clone()));
    parts.spawn(keep_house(Arc::clone(&app), stop.clone()));
    // Every socket is bound; whatever comes from a node is read without any right.
    bound.map(Bound::drop_all).transpose()?;
    announce_start(&app, admin_address);
    let running = Running {
        started: app.site.clone(),
        current,
        nodes: Arc::clone(&app.nodes),
        dhcp: front.netboot.as_ref().and_then(Netboot::dhcp_changes),
        dhcp_now: app.site.dhcp.clone(),
    };
    parts.spawn(reload::reload_on_signal(source, running, stop.clone()));
    wait_for_signal().await?;
    tracing::info!("stopping");
    stopper.send_replace(true);
    if let Some(netboot) = front.netboot {
        netboot.shutdown().await;
    }
    app.swarm.shutdown().await;
    let stopped =
        tokio::time::timeout(STOP_TIMEOUT, async { while parts.join_next().await.is_some() {} }).await;
    if stopped.is_err() {
        tracing::warn!("some parts did not stop in time; nothing that was acknowledged is lost");
    }
    Ok(())
}

fn task_maker(
    site: &Site,
    (key, disk_keys): (node_api::SigningKey, DiskKeys),
    address: Ipv4Addr,
    (current, relays): (Arc<Current>, Arc<Relays>),
) -> TaskMaker {
    TaskMaker {
        key,
        address,
        http_port: site.http_port,
        swarm_open: site.swarm_open,
        layout: site.layout.clone(),
        disk_keys,
        authorized_keys: site.authorized_keys.clone(),
        linger_max_s: site.linger_max_s,
        handover: site.handover,
        allow_unsigned: site.untrusted == Untrusted::Allow,
        site: current,
        relays,
    }
}

/// Everything that can be wrong is found here, before a socket is open.
fn open(site: &Site, state: &std::path::Path) -> Result<Opened> {
    let state = StateDir::open(state)?;
    let store = Store::open(&format!("sqlite:{}", state.path("esir.db").display()))
        .with_context(|| format!("opening {}", state.path("esir.db").display()))?;
    let keys = Keys::open(&state, &site.trust)?;
    let rules = ImageRules { trusted: &keys.trusted_images, untrusted: site.untrusted };
    let images = Images::open(&site.images, &rules, &store)?;
    let bundle = Arc::new(Bundle::open(&state.path(DEFAULT_BUNDLE), &keys.site_trust(&site.name))?);
    let rules = NodeRules { approve: site.approve.clone(), names: site.nodes.clone() };
    let nodes = Arc::new(Nodes::open(store.clone(), rules)?);
    let deltas = Deltas::open(site.reuse.then(|| state.path(DELTAS)), &images, &store)?;
    Ok(Opened { state, store, keys, images, deltas, bundle, nodes })
}

async fn start_front(
    site: &Site,
    (opened, current, relays): (&Opened, &Arc<Current>, &Arc<Relays>),
    swarm: &Arc<SwarmService>,
    stop: &Stop,
    parts: &mut JoinSet<()>,
) -> Result<Front> {
    let Some(interface) = site.interface.clone() else {
        let address = site.address.unwrap_or(Ipv4Addr::LOCALHOST);
        tracing::info!(%address, "no DHCP, TFTP and boot scripts: nodes are booted by other means");
        let listener = bind((address, site.http_port).into(), "tracker", "http_port").await?;
        parts.spawn(tls::serve(listener, None, swarm.router(), stop.clone()));
        return Ok(Front { netboot: None, address });
    };
    let config = NetbootConfig {
        interface,
        address: site.address,
        dhcp: site.dhcp.clone(),
        boot_files: site.boot_files.clone().unwrap_or_else(|| BOOT_FILES_DIR.into()),
        http_port: site.http_port,
        agent_port: site.agent_port,
        boot_from_peers: site.boot_from_peers,
    };
    let policy = Arc::new(Policy {
        nodes: Arc::clone(&opened.nodes),
        bundle: Arc::clone(&opened.bundle),
        site: Arc::clone(current),
        once: OnceBook::open(opened.store.clone())?,
        relays: Arc::clone(relays),
        fetches: Fetches::default(),
    });
    let netboot = Netboot::start(config, policy, opened.store.clone(), swarm.router()).await?;
    let address = *netboot.http_address().ip();
    Ok(Front { netboot: Some(netboot), address })
}

/// Nodes that were in mid-fetch when the last server ended look for its seed.
async fn start_seeds(app: &Arc<App>) -> Result<()> {
    for deployment in app.deployments.list_open() {
        if let Some(image) = app.images.get(&deployment.image_id) {
            app.swarm.seed(&image, &deployment, app.tasks.address).await?;
            for delta in app.deltas.leading_to(&image.id) {
                app.swarm.seed(&delta, &deployment, app.tasks.address).await?;
            }
        }
    }
    Ok(())
}

async fn keep_house(app: Arc<App>, mut stop: Stop) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for tick in 1_u64.. {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.stopped() => return,
        }
        app.swarm.announce_seeds().await;
        let house = Arc::clone(&app);
        let kept = blocking(move || {
            let now_unix_ms = now_unix_ms();
            house.nodes.tick(now_unix_ms);
            if tick % PRUNE_TICKS == 0 {
                house.nodes.prune_tokens(now_unix_ms)?;
                house.nodes.prune(now_unix_ms)?;
            }
            house.deployments.close_done(&house.nodes.active_deployments(), now_unix_ms)
        });
        match kept.await.and_then(|kept| kept) {
            Ok(closed) => {
                for deployment in closed {
                    app.swarm.stop_seeds(&deployment).await;
                }
            }
            Err(error) => tracing::error!("{error:#}"),
        }
    }
}

/// Where agents are answered: on the site's address; with netboot, on whichever the interface has.
fn listen_address(site: &Site) -> Ipv4Addr {
    let unnamed = if site.interface.is_some() { Ipv4Addr::UNSPECIFIED } else { Ipv4Addr::LOCALHOST };
    site.address.unwrap_or(unnamed)
}

async fn bind(address: SocketAddr, what: &str, setting: &str) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("opening the {what} on {address}; stop what uses it or set server.{setting} in the site file")
    })
}

fn announce_start(app: &App, admin: SocketAddr) {
    let image = app.images.default_image();
    let (address, port) = (app.tasks.address, app.site.agent_port);
    tracing::info!("dashboard and admin API: http://{admin}/");
    tracing::info!("agent API: https://{address}:{port}{}", paths::ENROL);
    tracing::info!(image = image.name, id = image.id, "nodes get this image");
    if !admin.ip().is_loopback() {
        tracing::warn!("the admin API has no login and can be reached from other machines at {admin}");
    }
    if app.site.swarm_open {
        tracing::warn!(
            "swarm.open: every machine that reaches this network can read the images and offer pieces of them"
        );
    }
    if app.site.approve.all {
        tracing::warn!("every machine that boots over the network is approved and its disk is written");
    }
}

/// Returns at SIGTERM or SIGINT.
pub(crate) async fn wait_for_signal() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
