//! Keys of LUKS containers: in the task, told to the admin, and the same in the next deployment.

use node_api::Task;

use crate::support::agent::Agent;
use crate::support::server::Server;

const SITE: &str = "[[layout.partition]]\nrole = 'esp'\nsize = '512MiB'\n\
    [[layout.partition]]\nrole = 'boot'\nsize = '1GiB'\n\
    [[layout.partition]]\nluks = 'crypt'\n\
    [[layout.luks]]\nname = 'crypt'\nrole = 'root'\n";

async fn deployed(server: &Server, number: u8) -> Task {
    let mut agent = Agent::boot(server, number).await.unwrap();
    agent.enrol().await;
    let task = agent.task(5).await.unwrap();
    agent.install("aa").await;
    task
}

fn told(server: &Server, node: &str) -> String {
    let output = server.run(&["disk-keys", node]);
    String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
}

#[tokio::test]
async fn keys_are_told_to_node_and_admin_and_outlive_server_and_deployment() {
    let mut server = Server::prepare(&["--approve-all"]);
    server.add_to_site(SITE);
    server.start_again().await;
    let (first, other) = (deployed(&server, 1).await, deployed(&server, 2).await);
    let [key] = first.disk_keys.as_slice() else { panic!("one container, one key") };
    let text = key.secret.text().to_owned();
    assert_eq!((key.name.as_str(), text.len()), ("crypt", 32));
    assert_ne!(first.disk_keys, other.disk_keys, "each node has its own");
    assert!(told(&server, "node-000001").contains(&format!("crypt      {text}\n")));
    assert!(told(&server, "nobody").contains("such node"));
    assert!(!server.log().contains(&text), "the log has no key");
    assert!(server.log().contains("told the disk keys of node-000001"));

    server.kill();
    server.start_again().await;
    assert!(server.run(&["deploy", "node-000001"]).status.success());
    assert_eq!(deployed(&server, 1).await.disk_keys, first.disk_keys);
    server.kill();
    std::fs::write(server.state().join("disk.key"), "none").unwrap();
    assert!(server.refusal().contains("restore it: nodes' LUKS containers open by it"));
}

#[tokio::test]
async fn a_layout_without_containers_has_no_keys() {
    let server = Server::start(&["--approve-all"]).await;
    assert!(deployed(&server, 1).await.disk_keys.is_empty());
    assert_eq!(told(&server, "node-000001"), "the site's layout has no LUKS container\n");
}
