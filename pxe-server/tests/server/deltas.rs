//! A node whose disk has an older image of this server is offered the difference; nobody else is.

use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hyper::StatusCode;
use image_format::parse_manifest;
use node_api::{Recovery, Stage, Task, paths};

use crate::support::agent::Agent;
use crate::support::server::Server;

/// `image-tools` lies beside the server, where the server looks for it; a test run of this crate alone does not build it.
fn image_tools() -> Option<PathBuf> {
    let program = Path::new(env!("CARGO_BIN_EXE_pxe-server")).with_file_name("image-tools");
    if !program.exists() {
        eprintln!("skipped: {} is not built", program.display());
    }
    program.exists().then_some(program)
}

fn noise(seed: u8, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new_keyed(&[seed; 32]).finalize_xof().fill(&mut bytes);
    bytes
}

/// An image of a folder with these files.
fn capture(program: &Path, folder: &Path, name: &str, files: &[(&str, u8, usize)]) -> PathBuf {
    let tree = folder.join(format!("{name}-tree"));
    std::fs::create_dir_all(tree.join("etc")).unwrap();
    for (file, seed, length) in files {
        std::fs::write(tree.join(file), noise(*seed, *length)).unwrap();
    }
    let image = folder.join(format!("{name}.esir"));
    let output = Command::new(program).arg("capture").arg(&tree).arg("-o").arg(&image).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    image
}

/// A server that deploys `new` and has `old` too.
async fn start(site: &str) -> Option<(Server, tempfile::TempDir)> {
    let program = image_tools()?;
    let folder = tempfile::tempdir().unwrap();
    let old = capture(&program, folder.path(), "old", &[("etc/a", 1, 100), ("kept", 2, 2 << 20)]);
    let new = capture(&program, folder.path(), "new", &[("etc/a", 3, 200), ("moved", 2, 2 << 20)]);
    let options = ["--image", old.to_str().unwrap(), "--allow-unsigned", "--approve-all"];
    let mut server = Server::prepare(&options);
    server.image = new;
    server.add_to_site(site);
    server.start_again().await;
    Some((server, folder))
}

async fn id_of(server: &Server, name: &str) -> String {
    let images = server.json("/v1/images").await;
    let image = images.as_array().unwrap().iter().find(|image| image["name"] == name).unwrap();
    image["id"].as_str().unwrap().to_owned()
}

/// Boots a node that is ordered to be deployed, and takes its task.
async fn take_task(server: &Server, number: u8) -> (Agent, Task) {
    let mut agent = Agent::boot(server, number).await.unwrap();
    agent.enrol().await;
    let task = agent.task(30).await.unwrap();
    (agent, task)
}

async fn deploy_again(server: &Server, agent: &Agent) -> (Agent, Task) {
    assert!(server.run(&["deploy", &agent.name]).status.success());
    take_task(server, agent.mac[15..].parse().unwrap()).await
}

#[tokio::test]
async fn node_with_an_older_image_is_offered_the_difference() {
    let Some((mut server, _folder)) = start("[deploy]\nreuse = true\n").await else { return };
    let (old, new) = (id_of(&server, "old").await, id_of(&server, "new").await);
    let (mut agent, task) = take_task(&server, 1).await;
    assert_eq!(task.reuse, None, "nobody knows what is on its disk");
    agent.install(&old).await;

    let (agent, task) = deploy_again(&server, &agent).await;
    let reuse = task.reuse.expect("its disk has the older image");
    let manifest = parse_manifest(&BASE64.decode(&reuse.image.manifest_base64).unwrap()).unwrap();
    let delta = manifest.delta.expect("it is a delta image");
    assert_eq!((delta.base.to_string(), delta.image.to_string()), (old.clone(), new.clone()));
    assert!(manifest.file_size < 1 << 20, "what is the same is not in it: {} bytes", manifest.file_size);
    assert_eq!(reuse.swarm.secret, task.swarm.secret, "one deployment");
    assert_ne!(reuse.swarm.server_peer, task.swarm.server_peer, "and two seeds");
    let data = format!("{}/{}/data", paths::IMAGES, manifest.image_id);
    assert_eq!(agent.get(&data).await.body.len() as u64, manifest.file_size, "it is a web seed too");
    let pieces = format!("{}/{}/pieces", paths::IMAGES, manifest.image_id);
    assert_eq!(agent.get(&pieces).await.status, StatusCode::OK);
    assert_eq!(agent.get(&format!("{}/{new}/data", paths::IMAGES)).await.status, StatusCode::OK);

    // A server that starts again has it still, and seeds it for nodes in mid-fetch.
    server.kill();
    server.start_again().await;
    let seeds = server.json("/v1/status").await["seeds"].to_string();
    assert!(seeds.contains("new-from-old"), "{seeds}");
    assert_eq!(agent.task(0).await.unwrap().reuse.unwrap().image, reuse.image);
    let made = server.log().matches("the delta image is made in").count();
    assert_eq!(made, 1, "{}", server.log());
}

#[tokio::test]
async fn node_that_failed_is_deployed_in_full() {
    let Some((server, _folder)) = start("[deploy]\nreuse = true\n").await else { return };
    let (old, new) = (id_of(&server, "old").await, id_of(&server, "new").await);
    let (mut agent, _) = take_task(&server, 1).await;
    agent.install(&old).await;
    let (mut agent, task) = deploy_again(&server, &agent).await;
    assert!(task.reuse.is_some());
    agent.run_stage(Stage::Join).await;
    agent.fail(Stage::Fetch, "reuse", "the older system lacks too much", Recovery::Retry).await;
    let task = agent.task(5).await.unwrap();
    assert_eq!(task.reuse, None, "nobody knows what is on its disk now");
    agent.install(&new).await;
    let (_, task) = deploy_again(&server, &agent).await;
    assert_eq!(task.reuse, None, "it has the image already, and is deployed anew all the same");
}

#[tokio::test]
async fn site_that_says_nothing_deploys_in_full() {
    let Some((server, _folder)) = start("").await else { return };
    let old = id_of(&server, "old").await;
    let (mut agent, _) = take_task(&server, 1).await;
    agent.install(&old).await;
    let (_, task) = deploy_again(&server, &agent).await;
    assert_eq!(task.reuse, None);
    assert!(!server.state().join("deltas").exists());
}
