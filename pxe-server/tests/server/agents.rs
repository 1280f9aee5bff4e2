//! A node's life as the server sees it: the real program, agents without machines.

use std::time::Duration;

use hyper::StatusCode;
use node_api::{
    Directive, EnrolRequest, EventKind, LogLine, Recovery, ReportRequest, Stage, TrafficCounts, paths,
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::agent::Agent;
use crate::support::peer;
use crate::support::server::Server;

#[tokio::test]
async fn unknown_node_waits_is_approved_and_is_deployed_exactly_once() {
    let server = Server::start(&[]).await;
    let mut agent = Agent::boot(&server, 1).await.unwrap();
    agent.enrol().await;
    assert_eq!(agent.name, "node-000001");
    for stage in [Stage::Start, Stage::Probe, Stage::Network, Stage::Enrol, Stage::Drivers] {
        agent.run_stage(stage).await;
    }
    assert_eq!(server.node_state(&agent.name).await, "waiting");
    assert!(agent.task(0).await.is_none());
    assert_eq!(agent.get(&format!("{}/{}", paths::OBJECTS, server.object)).await.body, "object");
    let image_id = server.json("/v1/images").await[0]["id"].as_str().unwrap().to_owned();
    let data = format!("{}/{image_id}/data", paths::IMAGES);
    assert_eq!(agent.get(&data).await.status, StatusCode::FORBIDDEN);

    let waiting = agent.clone();
    let poll = tokio::spawn(async move { waiting.task(20).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    let approved = server.run(&["approve", "node-000001"]);
    assert!(approved.status.success(), "{approved:?}");
    let task = poll.await.unwrap().expect("approval wakes the poll");
    assert_eq!(task.binding.node, "node-000001");
    assert_eq!(task.identity.hostname, "node-000001");
    assert_eq!(task.identity.machine_id.len(), 32);
    assert!(task.swarm.announce_url.ends_with("/announce"));
    assert!(task.image.signature.is_some());
    assert_eq!(agent.get(&data).await.body, std::fs::read(&server.image).unwrap());

    let traffic = TrafficCounts { from_server_bytes: 1000, from_nodes_bytes: 2000, sent_bytes: 0 };
    agent.run_stage(Stage::Join).await;
    agent.progress(Stage::Fetch, 1_500_000, 3_000_000, traffic).await;
    let node = server.json("/v1/nodes/node-000001").await;
    assert_eq!((node["state"].as_str(), node["stage"].as_str()), (Some("deploying"), Some("join")));
    assert_eq!(node["progress"]["done_bytes"], 1_500_000);

    agent.install(&image_id).await;
    assert_eq!(server.node_state(&agent.name).await, "lingering");
    assert_eq!(server.token(&agent.mac).await, None, "a power cut while it seeds is no reinstall");
    assert_eq!(server.node_state(&agent.name).await, "deployed");
    assert!(agent.task(0).await.is_none(), "nothing is deployed twice");

    assert!(server.run(&["deploy", "node-000001"]).status.success());
    let mut again = Agent::boot(&server, 1).await.expect("one deployment is armed");
    again.enrol().await;
    let second = again.task(0).await.unwrap();
    assert_eq!(second.identity.machine_id, task.identity.machine_id);
    again.install(&image_id).await;
    again.report(vec![EventKind::Entered { stage: Stage::Handover }]).await;
    assert_eq!(server.node_state(&agent.name).await, "deployed");
    assert!(Agent::boot(&server, 1).await.is_none(), "exactly one was armed");
}

#[tokio::test]
async fn server_killed_in_mid_deployment_keeps_sessions_tokens_and_states() {
    let mut server = Server::start(&["--approve-all"]).await;
    let mut deploying = Agent::boot(&server, 1).await.unwrap();
    deploying.enrol().await;
    let before = deploying.task(5).await.unwrap();
    let stored = deploying.run_stage(Stage::Prepare).await.stored_sequence;
    assert_eq!(stored, 2);
    let mut late = Agent::boot(&server, 2).await.unwrap();
    let mut done = Agent::boot(&server, 3).await.unwrap();
    done.enrol().await;
    done.task(5).await.unwrap();
    done.install("aa").await;

    server.kill();
    assert!(deploying.try_get(paths::TASK).await.is_err());
    server.start_again().await;

    assert_eq!(server.node_state("node-000001").await, "deploying");
    assert_eq!(deploying.run_stage(Stage::Fetch).await.stored_sequence, 4, "the session goes on");
    let again = deploying.task(0).await.unwrap();
    assert_eq!(again.swarm.secret, before.swarm.secret, "the swarm goes on");
    late.enrol().await;
    assert!(late.task(5).await.is_some(), "the token from before the kill is good");
    assert!(Agent::boot(&server, 3).await.is_none(), "what is installed stays installed");
    // A report that was stored but whose answer was lost comes again and changes nothing.
    let history = server.json("/v1/nodes/node-000001").await["history"].as_array().unwrap().len();
    let mut twin = deploying.clone();
    let event = EventKind::Entered { stage: Stage::Verify };
    let report = ReportRequest { events: vec![deploying.event(event)], ..ReportRequest::default() };
    assert_eq!(deploying.send_report(&report).await, twin.send_report(&report).await);
    assert_eq!(server.json("/v1/nodes/node-000001").await["history"].as_array().unwrap().len(), history + 1);
    twin.event(EventKind::Entered { stage: Stage::Verify });
    assert!(server.terminate().success(), "SIGTERM is a clean end");
}

#[tokio::test]
async fn agent_that_starts_again_enrols_again_with_its_token_and_key() {
    let server = Server::start(&["--approve-all"]).await;
    let mut agent = Agent::boot(&server, 1).await.unwrap();
    agent.enrol().await;
    let first = agent.clone();
    let task = agent.task(5).await.unwrap();
    agent.run_stage(Stage::Prepare).await;
    agent.enrol().await;
    assert_ne!(agent.session, first.session);
    assert_eq!(first.poll(0).await.status, StatusCode::UNAUTHORIZED, "the former session ends");
    assert_eq!(agent.task(0).await.unwrap().swarm.secret, task.swarm.secret);
    assert_eq!(agent.run_stage(Stage::Fetch).await.stored_sequence, 4);
    // Somebody else who read the kernel command line off the wire.
    let mut thief = agent.clone();
    thief.key = node_api::SigningKey::from_bytes(&[9; 32]);
    assert_eq!(thief.try_enrol().await.status, StatusCode::FORBIDDEN);
    assert_eq!(agent.poll(0).await.status, StatusCode::OK);
}

#[tokio::test]
async fn tampered_and_oversized_requests_are_refused() {
    let server = Server::start(&["--approve-all"]).await;
    let mut agent = Agent::boot(&server, 1).await.unwrap();
    let forged =
        EnrolRequest::sign(&agent.enrol_body(), &node_api::SigningKey::from_bytes(&[8; 32])).unwrap();
    let post = async |path: &str, body: Vec<u8>| agent.post(path, body).await.status;
    assert_eq!(post(paths::ENROL, serde_json::to_vec(&forged).unwrap()).await, StatusCode::FORBIDDEN);
    assert!(post(paths::ENROL, b"{}".to_vec()).await.is_client_error());
    assert_eq!(post(paths::ENROL, vec![b' '; 100_000]).await, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(post(paths::REPORT, b"{}".to_vec()).await, StatusCode::UNAUTHORIZED);
    let other_mac = Agent { mac: "52:54:00:00:00:77".into(), ..agent.clone() };
    assert_eq!(other_mac.try_enrol().await.status, StatusCode::FORBIDDEN);
    let other_token = Agent { token: "f".repeat(32), ..agent.clone() };
    assert_eq!(other_token.try_enrol().await.status, StatusCode::FORBIDDEN);
    assert_eq!(agent.poll(0).await.status, StatusCode::UNAUTHORIZED);

    agent.enrol().await;
    let post = async |body: Vec<u8>| agent.post(paths::REPORT, body).await.status;
    assert_eq!(post(vec![b' '; 5 << 20]).await, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(post(b"{\"events\": 7}".to_vec()).await.is_client_error());
    let mut many = agent.clone();
    let events = (0..300).map(|_| many.event(EventKind::Entered { stage: Stage::Fetch })).collect();
    let report = ReportRequest { events, ..ReportRequest::default() };
    assert_eq!(post(serde_json::to_vec(&report).unwrap()).await, StatusCode::PAYLOAD_TOO_LARGE);
    for path in ["/v1/agent/objects/..%2fbundle.json", "/v1/agent/images/x/data", "/v1/nodes", "/"] {
        assert_eq!(agent.get(path).await.status, StatusCode::NOT_FOUND, "{path}");
    }
}

#[tokio::test]
async fn client_that_still_sends_hears_that_it_sends_too_much() {
    let server = Server::start(&[]).await;
    let mut client = TcpStream::connect(server.admin).await.unwrap();
    let head = "POST /v1/approve HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n\
                content-length: 2097152\r\nconnection: close\r\n\r\n";
    client.write_all(head.as_bytes()).await.unwrap();
    for _ in 0..16 {
        client.write_all(&[b' '; 128 << 10]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
}

#[tokio::test]
async fn failed_node_says_why_and_waits_as_its_rule_says() {
    let server = Server::start(&["--approve-all"]).await;
    let mut agent = Agent::boot(&server, 1).await.unwrap();
    agent.enrol().await;
    agent.task(5).await.unwrap();
    agent.fail(Stage::Prepare, "disk-ambiguous", "the rule fits 2 disks\u{1b}[31m", Recovery::Wait).await;
    let node = server.json("/v1/nodes/node-000001").await;
    assert_eq!(node["state"], "failed");
    assert_eq!(node["failure"]["code"], "disk-ambiguous");
    assert_eq!(node["failure"]["message"], "the rule fits 2 disks [31m", "no escape sequence survives");
    assert!(agent.task(0).await.is_none(), "it waits for a person");
    assert!(server.run(&["approve", "node-000001"]).status.success());
    assert!(agent.task(5).await.is_some());
    agent.fail(Stage::Fetch, "swarm-slow", "no piece for 60 s", Recovery::Retry).await;
    agent.run_stage(Stage::Fetch).await;
    assert_eq!(server.node_state("node-000001").await, "deploying");
    for _ in 0..5 {
        agent.fail(Stage::Fetch, "swarm-slow", "no piece for 60 s", Recovery::Retry).await;
    }
    assert!(agent.task(0).await.is_none(), "it is not tried for ever");
    let mut rebooted = Agent::boot(&server, 1).await.unwrap();
    rebooted.enrol().await;
    assert!(rebooted.task(0).await.is_none());
    let report: Value = server.json("/v1/deployments").await;
    assert_eq!(report[0]["runs"][0]["outcome"], "failed");
}

#[tokio::test]
async fn approved_node_whose_machine_changes_waits_again() {
    let server = Server::start(&["--approve-all"]).await;
    let mut agent = Agent::boot(&server, 1).await.unwrap();
    agent.enrol().await;
    assert!(agent.task(5).await.is_some());
    let mut other = Agent::boot(&server, 1).await.unwrap();
    other.identity.serial = Some("SER-OTHER".into());
    other.enrol().await;
    assert!(other.task(0).await.is_none());
    let node = server.json("/v1/nodes/node-000001").await;
    assert_eq!(node["state"], "waiting");
    assert!(
        node["waits_for"].as_str().unwrap().contains("serial number was SER1 and is SER-OTHER"),
        "{node}"
    );
    assert_eq!(agent.poll(0).await.status, StatusCode::UNAUTHORIZED);
    assert!(server.run(&["approve", "--all"]).status.success());
    assert!(other.task(5).await.is_some());
}

#[tokio::test]
async fn power_cut_in_mid_fetch_is_deployed_again_and_group_ends_linger() {
    let server = Server::start(&["--approve-all"]).await;
    let mut first = Agent::boot(&server, 1).await.unwrap();
    first.enrol().await;
    let task = first.task(5).await.unwrap();
    let mut second = Agent::boot(&server, 2).await.unwrap();
    second.enrol().await;
    assert_eq!(second.task(5).await.unwrap().swarm.secret, task.swarm.secret, "one deployment, one swarm");
    second.run_stage(Stage::Fetch).await;
    first.install("aa").await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(first.report(vec![]).await.directive, None, "the other still fetches");

    let mut second = Agent::boot(&server, 2).await.expect("not installed yet");
    second.enrol().await;
    assert_eq!(second.task(5).await.unwrap().swarm.secret, task.swarm.secret);
    second.install("aa").await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(first.report(vec![]).await.directive, Some(Directive::EndLinger));
    let report = server.run(&["report"]);
    let text = String::from_utf8(report.stdout).unwrap();
    assert!(
        text.contains("node-000001") && text.contains("share from nodes") && text.contains("33 %"),
        "{text}"
    );
}

#[tokio::test]
async fn log_lines_are_kept_and_shown() {
    let server = Server::start(&[]).await;
    let mut agent = Agent::boot(&server, 1).await.unwrap();
    agent.enrol().await;
    let log = (0..300)
        .map(|n| LogLine { uptime_ms: n, source: "kernel".into(), text: format!("line {n}") })
        .collect();
    agent.send_report(&ReportRequest { log, ..ReportRequest::default() }).await;
    let node = server.json("/v1/nodes/node-000001").await;
    let lines = node["log"].as_array().unwrap();
    assert_eq!(lines.len(), 200);
    assert_eq!(lines[199]["text"], "line 299");
}

#[tokio::test]
async fn admin_api_refuses_other_sites_pages_and_says_what_is_wrong() {
    let server = Server::start(&[]).await;
    let request = |host: &str, kind: &str| {
        hyper::Request::post("/v1/approve")
            .header("host", host)
            .header("content-type", kind)
            .body(http_body_util::Full::from("{\"all\":true}"))
            .unwrap()
    };
    let own = server.admin.to_string();
    let status = async |host: &str, kind: &str| {
        crate::support::http::send(server.admin, None, request(host, kind)).await.unwrap().status
    };
    assert_eq!(status(&own, "application/json").await, StatusCode::OK);
    assert_eq!(status("evil.example", "application/json").await, StatusCode::FORBIDDEN);
    assert_eq!(status(&own, "text/plain").await, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let answer = server.post("/v1/approve", &json!({ "nodes": ["node-nobody"] })).await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    assert!(answer.json::<Value>()["error"].as_str().unwrap().contains("no node is called `node-nobody`"));
    assert_eq!(server.get("/v1/nodes/none").await.unwrap().status, StatusCode::NOT_FOUND);
    assert_eq!(server.post("/v1/boot", &json!({ "mac": "x" })).await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn node_fetches_the_image_from_the_server_that_was_killed_and_started_again() {
    let mut server = Server::start(&["--approve-all"]).await;
    let image = std::fs::read(&server.image).unwrap();
    let mut agent = Agent::boot(&server, 1).await.unwrap();
    agent.enrol().await;
    let task = agent.task(5).await.unwrap();
    server.kill();
    let (peer, store) = peer::start(&task, None).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    server.start_again().await;
    // The tracker knows the node again when it has reported.
    agent.run_stage(Stage::Fetch).await;
    assert_eq!(peer::complete(peer, &store).await, image);
    let mut seed = serde_json::Value::Null;
    for _ in 0..50 {
        seed = server.json("/v1/status").await["seeds"][0].clone();
        if seed["uploaded_bytes"].as_u64().unwrap() >= image.len() as u64 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(seed["deployment"], "d000001");
    assert!(seed["uploaded_bytes"].as_u64().unwrap() >= image.len() as u64, "{seed}");
}

#[tokio::test]
async fn stranger_without_the_secret_gets_no_piece_and_no_peers() {
    let server = Server::start(&["--approve-all"]).await;
    let mut agent = Agent::boot(&server, 1).await.unwrap();
    agent.enrol().await;
    let task = agent.task(5).await.unwrap();
    let (stranger, _) = peer::start(&task, Some([7; 32])).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(stranger.stats().verified, 0);
    assert_eq!(stranger.stats().downloaded, 0);
    let unknown = Server::start(&[]).await;
    let request = hyper::Request::get("/announce?info_hash=x").header("host", "server");
    let request = request.body(http_body_util::Full::default()).unwrap();
    let answer = crate::support::http::send(unknown.http, None, request).await.unwrap();
    assert!(String::from_utf8_lossy(&answer.body).contains("failure reason"), "{answer:?}");
}

#[tokio::test]
async fn server_in_a_strangers_hands_cannot_tell_a_node_to_skip_the_signature() {
    let mut server = Server::prepare(&["--approve-all", "--leave-signatures-to-nodes"]);
    let (stranger, _) = crate::support::image::make_key(server.folder.path());
    server.image = crate::support::image::make_image(server.folder.path(), "forged", Some(&stranger));
    server.start_again().await;
    let mut agent = Agent::boot(&server, 1).await.unwrap();
    agent.enrol().await;
    let task = agent.task(5).await.unwrap();
    assert!(task.image.signature.is_some() && !task.image.allow_unsigned);
    assert_eq!(server.json("/v1/images").await[0]["signed"], false);
}

#[tokio::test]
async fn unsigned_image_is_deployed_only_where_the_site_allows_it() {
    let mut server = Server::prepare(&["--approve-all", "--allow-unsigned"]);
    server.image = crate::support::image::make_image(server.folder.path(), "unsigned", None);
    server.start_again().await;
    let mut agent = Agent::boot(&server, 1).await.unwrap();
    agent.enrol().await;
    let task = agent.task(5).await.unwrap();
    assert!(task.image.signature.is_none() && task.image.allow_unsigned);
}
