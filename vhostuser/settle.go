package vhostuser

// settle starts and stops rings until they agree with what the frontend said.
// It runs after each message.
func (s *session) settle() {
	for _, r := range s.rings {
		if r.running && !r.runnable() {
			r.stop()
		}
	}
	for _, r := range s.rings {
		if r.running || !r.runnable() {
			continue
		}
		// Before any ring starts, all of them are looked at: a rebooted guest's
		// receive ring may look untouched where its transmit ring does not.
		if s.driverBeganAnew() {
			s.reset()
		}
		r.start()
	}
}

// driverBeganAnew reports whether a stopped ring is not as it was left. A driver
// that merely paused finds all of them so; one that was reloaded or rebooted has
// lost its state (also when it says so by no message, as in UML).
func (s *session) driverBeganAnew() bool {
	for _, r := range s.rings {
		if !r.running && r.anew() {
			return true
		}
	}
	return false
}

// reset tells the device that the driver lost its state, unless it cannot have
// had any since the last time. Rings begin anew without a further reset.
func (s *session) reset() {
	for _, r := range s.rings {
		r.left = nil
	}
	if s.used {
		s.used = false
		s.server.stats.Resets.Inc()
		s.server.device.Reset()
	}
}
