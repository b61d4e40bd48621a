package vhostuser

// settle starts and stops rings until they agree with what the frontend said.
// It runs after each message.
func (s *session) settle() {
	for _, r := range s.rings {
		if r.running && !r.runnable() {
			r.stop()
		}
	}
	s.relog()
	if starting := s.starting(); len(starting) > 0 {
		s.start(starting)
	}
	s.backend.flush() // may have waited for a ring to run
}

// start hands rings to the device.
func (s *session) start(rings []*vring) {
	// Before any ring starts, all of them are looked at: a rebooted guest's
	// receive ring may look untouched where its transmit ring does not.
	if s.driverBeganAnew() {
		s.reset()
	}
	for _, r := range rings {
		r.open()
	}
	s.inherit(rings)
	for _, r := range rings {
		r.start()
	}
}

// starting returns the rings that the device should have and has not.
func (s *session) starting() (rings []*vring) {
	for _, r := range s.rings {
		if !r.running && r.runnable() {
			rings = append(rings, r)
		}
	}
	return rings
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

// inherit tells the device, once, that the driver of the rings about to start
// comes from before this session. Frontends that set up one ring after another
// begin with the receive ring, which no connection leaves unused.
func (s *session) inherit(rings []*vring) {
	for _, r := range rings {
		if !s.inherited && r.inherited() {
			s.inherited = true
			s.server.device.Inherit()
		}
	}
}
