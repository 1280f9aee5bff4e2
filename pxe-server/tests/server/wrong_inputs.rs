//! Wrong inputs each give one clear sentence and exit code 1.

use std::process::Command;

use crate::support::image::{make_image, make_key};
use crate::support::server::{Server, write};

/// What a server says that was prepared rightly and then spoiled.
fn check(options: &[&str], spoil: impl FnOnce(&mut Server), expected: &[&str]) {
    let mut server = Server::prepare(options);
    spoil(&mut server);
    let said = server.refusal();
    for expected in expected {
        assert!(said.contains(expected), "{said}\nshould contain: {expected}");
    }
}

#[test]
fn missing_image_names_the_command_that_makes_one() {
    check(
        &[],
        |server| server.image = "nowhere.esir".into(),
        &["no image nowhere.esir", "image-tools capture"],
    );
}

#[test]
fn image_without_companion_names_it() {
    let spoil =
        |server: &mut Server| std::fs::remove_file(server.image.with_extension("esir.torrent")).unwrap();
    check(&[], spoil, &["has no", "debian-test.esir.torrent beside it"]);
}

#[test]
fn unsigned_image_says_how_to_sign_it_or_let_it_through() {
    let spoil = |server: &mut Server| server.image = make_image(server.folder.path(), "unsigned", None);
    check(&[], spoil, &["it is not signed", "image-tools sign", "--allow-unsigned"]);
}

#[test]
fn image_signed_by_a_stranger_is_refused() {
    let spoil = |server: &mut Server| {
        let (stranger, _) = make_key(server.folder.path());
        server.image = make_image(server.folder.path(), "foreign", Some(&stranger));
    };
    check(&[], spoil, &["which is not trusted here", "--trust KEY.pub"]);
}

#[test]
fn damaged_image_is_found_before_any_node_gets_it() {
    let spoil = |server: &mut Server| {
        let mut data = std::fs::read(&server.image).unwrap();
        data[700_000] ^= 1;
        std::fs::write(&server.image, data).unwrap();
    };
    check(&[], spoil, &["piece 2 of", "is damaged"]);
    let spoil =
        |server: &mut Server| std::fs::write(server.image.with_extension("esir.pieces"), [0; 384]).unwrap();
    check(&[], spoil, &["is not the list that"]);
}

#[test]
fn missing_bundle_prints_the_command_that_makes_it() {
    let spoil = |server: &mut Server| std::fs::remove_dir_all(server.state().join("bundles")).unwrap();
    check(&[], spoil, &["no boot bundle in", "image-tools boot build -o", "state/bundles/default"]);
}

#[test]
fn missing_interface_is_asked_for() {
    check(&[], |server| write(&server.folder.path().join("site.toml"), ""), &["--interface NAME"]);
}

#[test]
fn site_file_with_several_mistakes_names_them_all() {
    let mut server = Server::prepare(&[]);
    write(&server.folder.path().join("site.toml"), "[server]\nmode = 'of'\n[dhcp]\nlease = 1\n");
    let output = server.command().output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("site.toml:2: server.mode"), "{said}");
    assert!(said.contains("site.toml:4: unknown field `lease`"), "{said}");
    server.image = "unused".into();
}

#[test]
fn commands_without_a_server_say_so() {
    for command in [&["nodes"][..], &["approve", "--all"], &["deploy", "x"], &["watch"], &["report"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_pxe-server"))
            .args(command)
            .args(["--admin", "http://127.0.0.1:1"])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(
            said.contains("no pxe-server answers at http://127.0.0.1:1; start `pxe-server serve`"),
            "{said}"
        );
    }
}

#[test]
fn port_in_use_names_the_setting() {
    let server = Server::prepare(&[]);
    let taken = std::net::TcpListener::bind(server.admin).unwrap();
    let said = server.refusal();
    assert!(said.contains("opening the admin API on") && said.contains("server.admin"), "{said}");
    drop(taken);
}
