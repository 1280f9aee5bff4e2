"""One libtorrent peer tuned for a LAN: libtorrent_peer.py seed|fetch TORRENT DIRECTORY ADDRESS:PORT.

Prints {"event":"ready"} when loaded; connects when a line arrives; prints {"event":"complete","stats":...}.
"""
import json
import sys
import time

import libtorrent as lt

role, torrent, directory, listen = sys.argv[1:]
# Not high_performance_seed(): its queue of 1,500 requests makes the seed send more copies (2.2 to 2.6 x S/B with
# 8 nodes and 128 MiB, against 1.6 with these).
settings = lt.default_settings()
settings.update({
    "listen_interfaces": listen,
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "enable_incoming_utp": False,
    "enable_outgoing_utp": False,
    "prefer_rc4": False,
    "in_enc_policy": 2,
    "out_enc_policy": 2,
    "mixed_mode_algorithm": 0,  # prefer TCP
    "unchoke_slots_limit": -1,
    "active_limit": -1,
    "connections_limit": 500,
    "connection_speed": 500,
    "min_announce_interval": 1,
    "min_reconnect_time": 1,
    "max_out_request_queue": 500,
    "request_queue_time": 1,
    "piece_extent_affinity": False,
    "max_allowed_in_request_queue": 2000,
    "send_buffer_watermark": 1 << 20,
    "alert_mask": lt.alert.category_t.status_notification | lt.alert.category_t.error_notification,
})
session = lt.session(settings)
parameters = lt.add_torrent_params()
parameters.ti = lt.torrent_info(torrent)
parameters.save_path = directory
parameters.storage_mode = lt.storage_mode_t.storage_mode_sparse
parameters.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
if role == "seed":
    parameters.flags |= lt.torrent_flags.seed_mode
else:
    parameters.flags |= lt.torrent_flags.paused
handle = session.add_torrent(parameters)
have_index = lt.find_metric_idx("ses.num_outgoing_have")


def say(event, **more):
    print(json.dumps({"event": event, **more}), flush=True)


def sent_haves():
    session.post_session_stats()
    until = time.monotonic() + 1
    while time.monotonic() < until:
        session.wait_for_alert(100)
        for alert in session.pop_alerts():
            if isinstance(alert, lt.session_stats_alert):
                values = alert.values
                return values["ses.num_outgoing_have"] if isinstance(values, dict) else values[have_index]
    return None


while handle.status().state in (lt.torrent_status.checking_files, lt.torrent_status.checking_resume_data):
    time.sleep(0.01)
say("ready")
if role == "fetch":
    sys.stdin.readline()
    handle.resume()
done = role == "seed"
while True:
    session.wait_for_alert(1000)
    for alert in session.pop_alerts():
        if isinstance(alert, lt.torrent_finished_alert) and not done:
            done = True
            say("complete")
            say("stats", stats={"have_messages": sent_haves()})
