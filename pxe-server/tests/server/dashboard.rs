//! The dashboard in a real browser, with a room full of nodes in every state.

use std::path::PathBuf;

use node_api::{EventKind, Inventory, LogLine, Recovery, ReportRequest, Stage, TrafficCounts};

use crate::support::agent::Agent;
use crate::support::browser::Browser;
use crate::support::server::Server;

/// Where the pictures go; without it they are made all the same and dropped.
const PICTURES: &str = "ESIR_TEST_PICTURES";

#[tokio::test]
async fn dashboard_shows_every_state_and_no_node_can_inject_markup() {
    let mut server = Server::start(&[]).await;
    let page = format!("http://{}/", server.admin);
    let Some(mut browser) = Browser::open(&page, 1280, 860) else { return };
    browser.wait_for("document.body.innerText.includes('No machine has booted')");
    fill_room(&server).await;
    let folder = tempfile::tempdir().unwrap();
    let pictures = std::env::var_os(PICTURES).map_or_else(|| folder.path().to_owned(), PathBuf::from);
    std::fs::create_dir_all(&pictures).unwrap();
    browser.wait_for("document.querySelectorAll('article.node').length === 10");
    for state in ["deploying", "lingering", "deployed", "failed", "waiting", "approved"] {
        browser.wait_for(&format!(
            "document.querySelector('article.{state} .badge').innerText.includes('{state}')"
        ));
    }
    assert_eq!(browser.eval("document.querySelectorAll('img').length"), 0, "a node's text became markup");
    assert!(browser.eval("document.body.innerText.includes('<img src=x')").as_bool().unwrap());
    assert!(!browser.eval("document.title.includes('owned')").as_bool().unwrap());
    browser.picture(&pictures.join("dashboard.png"));
    browser.prefer("dark");
    browser.picture(&pictures.join("dashboard-dark.png"));
    browser.prefer("light");
    browser.resize(412, 900);
    browser.picture(&pictures.join("dashboard-phone.png"));
    assert!(
        browser.eval("document.documentElement.scrollWidth <= innerWidth").as_bool().unwrap(),
        "fits a phone"
    );
    browser.resize(1280, 1000);
    browser.eval("[...document.querySelectorAll('.node-head button')].find((b) => b.innerText === 'node-000003').click()");
    browser.wait_for("document.querySelector('#detail pre')?.innerText.includes('virtio_blk') === true");
    assert!(
        browser.eval("document.querySelector('#detail').innerText.includes('AMD EPYC')").as_bool().unwrap()
    );
    browser.picture(&pictures.join("node.png"));
    browser.eval("document.getElementById('detail').close()");

    server.kill();
    browser.wait_for("document.body.innerText.includes('does not answer')");
    server.start_again().await;
    browser.wait_for("document.getElementById('connection').hidden");
    browser.wait_for("document.querySelectorAll('article.node').length === 10");
}

#[tokio::test]
async fn node_is_approved_in_the_browser_and_gets_its_task() {
    let server = Server::start(&[]).await;
    let Some(mut browser) = Browser::open(&format!("http://{}/", server.admin), 1000, 800) else { return };
    let mut agent = Agent::boot(&server, 1).await.unwrap();
    agent.enrol().await;
    assert!(agent.task(0).await.is_none());
    browser.wait_for("document.querySelector('article.waiting .actions .primary')?.innerText === 'Approve'");
    browser.eval("document.querySelector('article.waiting .actions .primary').click()");
    assert!(agent.task(20).await.is_some());
    browser.wait_for("document.querySelector('article.deploying') !== null");
}

/// Ten nodes: waiting, approved, in three stages, seeding, deployed, failed in two ways, only seen.
async fn fill_room(server: &Server) {
    let mut room = Vec::new();
    for number in 1..=10 {
        let mut agent = Agent::boot(server, number).await.unwrap();
        agent.identity.product =
            Some(if number % 2 == 0 { "PowerEdge R640" } else { "ProLiant DL360" }.into());
        agent.identity.vendor = Some(if number % 2 == 0 { "Dell Inc." } else { "HPE" }.into());
        room.push(agent);
    }
    for agent in &mut room[..9] {
        agent.enrol().await;
        agent.run_stage(Stage::Drivers).await;
        agent.report(vec![EventKind::Entered { stage: Stage::Await }]).await;
    }
    for agent in &mut room[2..9] {
        assert!(server.run(&["approve", &agent.name]).status.success());
        agent.task(5).await.unwrap();
        agent.run_stage(Stage::Join).await;
    }
    let traffic = |server: u64, nodes: u64| TrafficCounts {
        from_server_bytes: server * 1_000_000,
        from_nodes_bytes: nodes * 1_000_000,
        sent_bytes: 120_000_000,
    };
    let fetching = &mut room[2];
    fetching.send_report(&inventory_and_log()).await;
    fetching.run_stage(Stage::Prepare).await;
    fetching.report(vec![EventKind::Entered { stage: Stage::Fetch }]).await;
    fetching.progress(Stage::Fetch, 412_000_000, 731_000_000, traffic(150, 262)).await;
    room[3].run_stage(Stage::Prepare).await;
    room[3].report(vec![EventKind::Entered { stage: Stage::Fetch }]).await;
    room[3].progress(Stage::Fetch, 190_000_000, 731_000_000, traffic(110, 80)).await;
    room[4].report(vec![EventKind::Entered { stage: Stage::Verify }]).await;
    room[4].progress(Stage::Verify, 1_500_000_000, 1_900_000_000, traffic(200, 531)).await;
    room[5].install("aa").await;
    room[6].install("aa").await;
    assert_eq!(server.token(&room[6].mac).await, None);
    let message =
        "the layout's rule fits 2 disks: sda (8.0 GiB, serial QM1); sdb (8.0 GiB, serial QM2). Name one";
    room[7].fail(Stage::Prepare, "disk-ambiguous", message, Recovery::Wait).await;
    let markup = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>";
    room[8].fail(Stage::Fetch, "image-signature", markup, Recovery::Wait).await;
    assert!(server.run(&["approve", "node-00000a"]).status.success());
}

fn inventory_and_log() -> ReportRequest {
    let texts = [
        "virtio_blk virtio2: [vda] 16777216 512-byte logical blocks",
        "e1000e 0000:00:03.0 eth0: NIC Link is Up",
    ];
    let lines = texts.iter().cycle().take(14).enumerate();
    let log = lines
        .map(|(n, text)| LogLine {
            uptime_ms: 2100 + n as u64 * 137,
            source: "kernel".into(),
            text: (*text).into(),
        })
        .collect();
    let inventory = Inventory {
        memory_bytes: 64 << 30,
        processors: 32,
        processor_model: "AMD EPYC 7302P 16-Core Processor".into(),
        ..Inventory::default()
    };
    ReportRequest { log, inventory: Some(inventory), ..ReportRequest::default() }
}
