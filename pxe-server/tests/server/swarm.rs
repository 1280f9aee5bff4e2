//! The swarm's edges: who is let in, what is counted, who is named.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use http_body_util::Full;
use hyper::{Request, StatusCode};
use node_api::{EventKind, Stage};
use serde_json::Value;
use swarm_net::{MemoryStore, Metainfo, Peer, PeerConfig, PieceSet};

use crate::support::agent::Agent;
use crate::support::http::send;
use crate::support::peer;
use crate::support::server::Server;

/// An agent that speaks from an address of its own and has its task.
async fn deploying(server: &Server, number: u8) -> Agent {
    let mut agent = Agent::boot(server, number).await.unwrap();
    agent.address = Ipv4Addr::new(127, 0, 77, number);
    agent.enrol().await;
    agent.task(5).await.unwrap();
    agent.run_stage(Stage::Prepare).await;
    agent
}

#[tokio::test]
async fn node_that_gives_damaged_pieces_is_named_although_the_seed_never_saw_it() {
    let server = Server::start(&["--approve-all"]).await;
    let mut broken = deploying(&server, 1).await;
    let mut second = deploying(&server, 2).await;
    let mut third = deploying(&server, 3).await;
    let accuse = |address: IpAddr| vec![EventKind::BrokenPeer { address }];
    second.report(accuse(broken.address.into())).await;
    second.report(accuse(broken.address.into())).await;
    third.report(accuse(broken.address.into())).await;
    third.report(accuse([127, 0, 77, 99].into())).await;

    let sentence = "gave damaged pieces to node-000002, node-000003: check its memory and its disk";
    let node = server.json("/v1/nodes/node-000001").await;
    assert_eq!(node["alarm"], sentence);
    assert_eq!(node["state"], "deploying", "it may be slandered, so it goes on");
    let listed = String::from_utf8(server.run(&["nodes"]).stdout).unwrap();
    let line = listed.lines().find(|line| line.contains("node-000001")).unwrap();
    assert!(line.contains(&format!("ALARM: {sentence}")), "{listed}");
    assert_eq!(listed.matches("ALARM").count(), 1, "{listed}");
    let texts = |node: &Value| -> Vec<String> {
        let history = node["history"].as_array().unwrap();
        history.iter().map(|entry| entry["text"].as_str().unwrap().to_owned()).collect()
    };
    let about = texts(&node).into_iter().filter(|text| text.contains("damaged")).count();
    assert_eq!(about, 2, "each witness once");
    let witness = server.json("/v1/nodes/node-000002").await;
    assert!(texts(&witness).iter().any(|text| text.contains("got damaged pieces from 127.0.77.1")));
    assert!(server.log().contains("a peer that is no node gave damaged pieces"));

    broken = Agent::boot(&server, 1).await.unwrap();
    broken.enrol().await;
    assert_eq!(server.json("/v1/nodes/node-000001").await["alarm"], Value::Null);
}

async fn get(server: &Server, path: &str) -> (StatusCode, Vec<u8>) {
    let request = Request::get(path).header("host", server.http.to_string());
    let answer = send(server.http, None, request.body(Full::default()).unwrap()).await.unwrap();
    (answer.status, answer.body.to_vec())
}

/// A peer that knows no secret, as a stock client.
async fn stock_peer(metainfo: Metainfo, announce: &str) -> (Peer, Arc<MemoryStore>) {
    let store = Arc::new(MemoryStore::new());
    let have = PieceSet::empty(u32::try_from(metainfo.pieces.len()).unwrap());
    let listen = SocketAddr::from(([127, 0, 77, 200], 0));
    let config = PeerConfig {
        announce_url: Some(announce.to_owned()),
        open: true,
        ..PeerConfig::new(metainfo, Arc::clone(&store) as _, have, listen)
    };
    (Peer::start(config).await.unwrap(), store)
}

#[tokio::test]
async fn open_swarm_gives_the_image_to_a_stock_client() {
    let mut server = Server::prepare(&["--approve-all"]);
    server.add_to_site("[swarm]\nopen = true\n");
    server.start_again().await;
    assert!(server.log().contains("swarm.open: every machine"), "{}", server.log());
    let agent = deploying(&server, 1).await;
    assert!(agent.task(0).await.unwrap().swarm.open, "its neighbours are let in too");
    let name = server.image.file_name().unwrap().to_str().unwrap();
    let (status, torrent) = get(&server, &format!("/torrents/{name}.torrent")).await;
    assert_eq!(status, StatusCode::OK);
    let metainfo = Metainfo::parse(&torrent).unwrap();
    let announce = metainfo.announce.clone().unwrap();
    assert_eq!(announce, format!("http://{}/announce", server.http));
    let (stock, store) = stock_peer(metainfo, &announce).await;
    let whole = peer::complete(stock, &store).await;
    assert!(whole == std::fs::read(&server.image).unwrap());
}

#[tokio::test]
async fn closed_swarm_has_no_torrent_for_strangers_and_counts_those_it_refuses() {
    let server = Server::start(&["--approve-all"]).await;
    let agent = deploying(&server, 1).await;
    let task = agent.task(0).await.unwrap();
    assert!(!task.swarm.open);
    let name = server.image.file_name().unwrap().to_str().unwrap();
    assert_eq!(get(&server, &format!("/torrents/{name}.torrent")).await.0, StatusCode::NOT_FOUND);

    let (stranger, store) = peer::start(&task, Some([9; 32])).await;
    let mut closed = Value::Null;
    for _ in 0..100 {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        closed = server.json("/v1/status").await["seeds"][0]["closed"].clone();
        if closed["wrong_proof"].as_u64() > Some(0) {
            break;
        }
    }
    assert!(closed["wrong_proof"].as_u64() > Some(0), "{closed}");
    assert_eq!(store.contents(), b"");
    drop(stranger);
}
