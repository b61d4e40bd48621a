package vhostuser

// Guard is guard.
func (s *Server) Guard(f func() error) error { return s.guard(f) }

// Ready returns how many candidates have sent a whole message.
func (s *Server) Ready() (n int) {
	for _, c := range s.candidates {
		if c.ready {
			n++
		}
	}
	return n
}

// Kick serves a kick of ring i.
func (s *Server) Kick(i int) { s.session.rings[i].HandleEvents(0) }

// Attached reports whether there is a session.
func (s *Server) Attached() bool { return s.session != nil }

// Turn does what one turn of the loop does for a session that has everything:
// messages, state, kicks and deadlines.
func (s *Server) Turn() {
	if s.session != nil {
		s.session.HandleEvents(0)
	}
	if s.session != nil && s.session.transferring() {
		s.session.transfer.HandleEvents(0)
	}
	if s.session != nil {
		s.session.backend.HandleEvents(0)
	}
	for i := range s.queues {
		if s.session != nil && s.session.rings[i].polled {
			s.session.rings[i].HandleEvents(0)
		}
	}
	s.Expire(s.patrolled + patrolInterval)
	s.Work()
}

// Waits reports whether the frontend waits for the end of a transfer.
func (s *Server) Waits() bool { return s.session != nil && s.session.interest == 0 }

// ChannelPolled reports whether the loop waits for room in the backend's channel.
func (s *Server) ChannelPolled() bool { return s.session.backend.polled }
