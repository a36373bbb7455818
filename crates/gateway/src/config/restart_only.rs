//! Settings that only a restart can change.

use super::Config;

impl Config {
    /// Restores the running values of settings that need a restart; returns the keys that differ.
    #[must_use]
    pub fn keep_restart_only(&mut self, running: &Self) -> Vec<&'static str> {
        let mut kept = Vec::new();
        keep("listen", &mut self.listen, &running.listen, &mut kept);
        keep("admin_listen", &mut self.admin_listen, &running.admin_listen, &mut kept);
        keep("watch", &mut self.watch, &running.watch, &mut kept);
        keep("log.format", &mut self.log.format, &running.log.format, &mut kept);
        keep("log.level", &mut self.log.level, &running.log.level, &mut kept);
        let (new, old) = (&mut self.front.limits, &running.front.limits);
        keep("limits.connections", &mut new.connections, &old.connections, &mut kept);
        keep(
            "limits.connections_per_peer",
            &mut new.connections_per_peer,
            &old.connections_per_peer,
            &mut kept,
        );
        keep("limits.sessions_per_peer", &mut new.sessions_per_peer, &old.sessions_per_peer, &mut kept);
        keep("limits.buffered", &mut new.buffered_bytes, &old.buffered_bytes, &mut kept);
        keep("limits.deleted_sessions", &mut new.deleted_sessions, &old.deleted_sessions, &mut kept);
        let lifetime = running.front.times.session_lifetime;
        keep("times.session_lifetime", &mut self.front.times.session_lifetime, &lifetime, &mut kept);
        if self.shown_sessions() != running.shown_sessions() {
            kept.push("sessions");
        }
        self.sessions.clone_from(&running.sessions);
        self.front.sessions.clone_from(&running.front.sessions);
        // The process keeps its descriptor limits.
        self.front.limits.descriptors = running.front.limits.descriptors;
        self.front.limits.reserved_descriptors = running.front.limits.reserved_descriptors;
        kept
    }
}

fn keep<T: Clone + PartialEq>(key: &'static str, new: &mut T, running: &T, kept: &mut Vec<&'static str>) {
    if new != running {
        new.clone_from(running);
        kept.push(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_and_cannot_change_is_named() {
        let running = Config::default();
        let mut new = Config::default();
        new.listen.set_port(1);
        new.log.level = "debug".to_owned();
        new.front.limits.body_bytes = 7;
        assert_eq!(new.keep_restart_only(&running), ["listen", "log.level"]);
        assert_eq!((new.listen, new.log), (running.listen, running.log));
        assert_eq!(new.front.limits.body_bytes, 7);
    }
}
