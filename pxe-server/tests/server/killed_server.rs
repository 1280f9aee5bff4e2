//! The server is killed again and again while agents work; nothing that it acknowledged is lost.

use std::time::Duration;

use hyper::StatusCode;
use node_api::{
    EnrolReply, EnrolRequest, EventKind, ReportReply, ReportRequest, Stage, TrafficCounts, paths,
};

use crate::support::agent::Agent;
use crate::support::server::Server;

const NODES: u8 = 6;
const KILLS: u64 = 8;
const PAUSE: Duration = Duration::from_millis(15);

#[tokio::test]
async fn server_killed_again_and_again_loses_nothing_and_deploys_each_node_once() {
    let mut server = Server::start(&["--approve-all"]).await;
    let mut agents = Vec::new();
    for number in 1..=NODES {
        agents.push(Agent::boot(&server, number).await.unwrap());
    }
    let lives: Vec<_> = agents.into_iter().map(|agent| tokio::spawn(live(agent))).collect();
    for kill in 0..KILLS {
        tokio::time::sleep(Duration::from_millis(40 + (kill * 53) % 170)).await;
        server.kill();
        server.start_again().await;
    }
    for life in lives {
        let (name, acknowledged) = life.await.unwrap();
        let node = server.json(&format!("/v1/nodes/{name}")).await;
        assert_eq!(node["state"], "deployed", "{node}");
        let texts: Vec<&str> =
            node["history"].as_array().unwrap().iter().map(|entry| entry["text"].as_str().unwrap()).collect();
        for text in &acknowledged {
            let times = texts.iter().filter(|found| *found == text).count();
            assert_eq!(times, 1, "{name}: `{text}` was acknowledged and is there {times} times: {texts:#?}");
        }
        let installations = texts.iter().filter(|text| text.starts_with("installed, read back")).count();
        assert_eq!(installations, 1);
    }
    for number in 1..=NODES {
        assert!(
            Agent::boot(&server, number).await.is_none(),
            "a node that is installed boots from its own disk"
        );
    }
}

/// A whole life by an agent that tries again until it is answered; its name and what was acknowledged.
async fn live(mut agent: Agent) -> (String, Vec<String>) {
    let request = serde_json::to_vec(&EnrolRequest::sign(&agent.enrol_body(), &agent.key).unwrap()).unwrap();
    let reply: EnrolReply = until_answered(&agent, paths::ENROL, request).await;
    agent.session = reply.session;
    loop {
        match agent.try_get(&format!("{}?wait_s=5", paths::TASK)).await {
            Ok(answer) if answer.status == StatusCode::OK => break,
            _ => tokio::time::sleep(PAUSE).await,
        }
    }
    let mut acknowledged = Vec::new();
    for round in 0..12 {
        let detail = format!("round {round}");
        let event =
            agent.event(EventKind::Finished { stage: Stage::Fetch, took_ms: 1, detail: detail.clone() });
        report(&agent, event).await;
        acknowledged.push(format!("finished fetch: {detail}"));
    }
    let traffic = TrafficCounts::default();
    let installed = agent.event(EventKind::Installed {
        image_id: "aa".into(),
        traffic,
        host_keys: vec![],
        changes: vec![],
    });
    report(&agent, installed).await;
    let handover = agent.event(EventKind::Entered { stage: Stage::Handover });
    report(&agent, handover).await;
    (reply.node, acknowledged)
}

async fn report(agent: &Agent, event: node_api::Event) {
    let sequence = event.sequence;
    let report = ReportRequest { events: vec![event], ..ReportRequest::default() };
    let reply: ReportReply = until_answered(agent, paths::REPORT, serde_json::to_vec(&report).unwrap()).await;
    assert_eq!(reply.stored_sequence, sequence);
}

async fn until_answered<T: serde::de::DeserializeOwned>(agent: &Agent, path: &str, body: Vec<u8>) -> T {
    loop {
        match agent.try_post(path, body.clone()).await {
            Ok(answer) => {
                assert_eq!(answer.status, StatusCode::OK, "{path}: {answer:?}");
                return answer.json();
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}
