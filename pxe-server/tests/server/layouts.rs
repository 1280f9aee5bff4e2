//! What `pxe-server layout` says of nodes' disks.

use std::process::Output;

use disk_layout::{Disk, FoundPartition, Transport};
use node_api::{Inventory, ReportRequest};

use crate::support::agent::Agent;
use crate::support::server::{Server, write};

const SITE: &str = "[layout.disk]\ntransport = 'nvme'\n\
    [[layout.partition]]\nrole = 'esp'\nsize = '512MiB'\n\
    [[layout.partition]]\nrole = 'root'\nfs = 'btrfs'\nsubvolumes = [{ name = '@', mount = '/' }]\n\
    [[layout.partition]]\nname = 'data'\nsize = '4GiB'\nmount = '/data'\nkeep = true\n";

fn disk(name: &str, transport: Transport) -> Disk {
    Disk {
        name: name.into(),
        serial: Some(format!("S-{name}")),
        size_bytes: 16 << 30,
        logical_sector_bytes: 512,
        physical_sector_bytes: 512,
        transport,
        ..Disk::default()
    }
}

/// Its machine's disks arrive with the first report.
async fn node_with(server: &Server, number: u8, disks: Vec<Disk>) -> String {
    let mut agent = Agent::boot(server, number).await.unwrap();
    agent.enrol().await;
    let inventory = Inventory { disks, ..Inventory::default() };
    agent.send_report(&ReportRequest { inventory: Some(inventory), ..ReportRequest::default() }).await;
    agent.name
}

fn said(output: &Output) -> (bool, String) {
    let text = [output.stdout.as_slice(), &output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

fn check(output: &Output, success: bool, expected: &[&str]) {
    let (succeeded, text) = said(output);
    for expected in expected {
        assert!(text.contains(expected), "{text}\nshould contain {expected}");
    }
    assert_eq!(succeeded, success, "{text}");
}

#[tokio::test]
async fn nodes_are_checked_and_planned_before_anything_is_written() {
    let server = Server::start(&[]).await;
    let site = server.folder.path().join("layout.toml");
    write(&site, SITE);
    let site = site.to_str().unwrap();
    let good =
        node_with(&server, 1, vec![disk("sda", Transport::Ata), disk("nvme0n1", Transport::Nvme)]).await;
    let two = vec![disk("nvme0n1", Transport::Nvme), disk("nvme1n1", Transport::Nvme)];
    let doubtful = node_with(&server, 2, two).await;

    let one = server.run(&["layout", "check", &good, "--site", site]);
    check(&one, true, &["node-000001: /dev/nvme0n1 (16.0 GiB, serial S-nvme0n1), blank"]);
    let all = server.run(&["layout", "check", "--all", "--site", site]);
    check(
        &all,
        false,
        &[
            "node-000001: /dev/nvme0n1",
            &format!(
                "{doubtful}: STOPS: the layout's rule fits 2 disks: nvme0n1 (16.0 GiB, serial S-nvme0n1); nvme1n1"
            ),
            "1 of 2 nodes would stop before their first write",
        ],
    );
    let plan = server.run(&["layout", "plan", &good, "--site", site]);
    let lines = [
        "/dev/nvme0n1 (16.0 GiB, serial S-nvme0n1): all data on it is lost\n",
        "1 esir-esp            512.0 MiB  LBA 2048..=1050623  vfat  on /boot/efi\n",
        "2 esir-root            11.4 GiB",
        "btrfs  @ on /\n",
        "3 esir-keep-data        4.0 GiB",
    ];
    check(&plan, true, &lines);
    check(&server.run(&["layout", "plan", "nobody", "--site", site]), false, &["asking for nobody"]);
}

#[test]
fn inventory_that_was_saved_is_planned_without_a_server() {
    let server = Server::prepare(&[]);
    let folder = server.folder.path();
    write(&folder.join("layout.toml"), SITE);
    let found = FoundPartition {
        name: "esir-keep-data".into(),
        first_lba: 2048,
        last_lba: 2048 + (4 << 21) - 1,
        signatures: vec!["ext4".into()],
        ..FoundPartition::default()
    };
    let used = Disk {
        signatures: vec!["esir".into(), "gpt".into()],
        partitions: vec![found],
        ..disk("nvme0n1", Transport::Nvme)
    };
    let inventory = Inventory { disks: vec![used], ..Inventory::default() };
    let saved = folder.join("node.json");
    std::fs::write(&saved, serde_json::to_vec(&serde_json::json!({ "inventory": inventory })).unwrap())
        .unwrap();
    let words =
        ["--site", folder.join("layout.toml").to_str().unwrap(), "--inventory", saved.to_str().unwrap()]
            .map(str::to_owned);
    let run = |what: &str| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_pxe-server"));
        command.args(["layout", what]).args(&words).output().unwrap()
    };
    check(&run("check"), true, &["holds gpt with \"esir-keep-data\" (ext4); keeps esir-keep-data"]);
    check(
        &run("plan"),
        true,
        &["all data on it but what is kept is lost", "LBA 2048..=8390655  kept as it is  ext4  on /data"],
    );
    std::fs::write(&saved, "[]").unwrap();
    check(&run("plan"), false, &["is no inventory; save what GET /v1/nodes/NAME answers"]);
}
