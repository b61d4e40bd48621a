package vhostuser

import "time"

// patrolInterval is how often a running ring is looked at that nobody can kick
// for: VHOST_USER_SET_VRING_KICK may say that there is no descriptor.
const patrolInterval = time.Millisecond

// Work lets the device work.
func (s *Server) Work() (more bool) { return s.ask(s.device.Work) }

// Rest lets the device rest.
func (s *Server) Rest() (more bool) { return s.ask(s.device.Rest) }

// Look lets the device look.
func (s *Server) Look() (more bool) { return s.ask(s.device.Look) }

// ask returns the device's answer, or false if the session ended over it.
func (s *Server) ask(device func() bool) (answer bool) {
	s.run(func() error {
		answer = device()
		return nil
	})
	return answer
}

// Deadline returns the earliest of the device's and the server's own.
func (s *Server) Deadline() (at time.Duration, ok bool) {
	at, ok = s.device.Deadline()
	if s.session != nil && s.session.untended() {
		at, ok = earlier(at, ok, s.patrolled+patrolInterval)
	}
	if s.session != nil && s.session.transferring() {
		at, ok = earlier(at, ok, s.session.transfer.deadline)
	}
	if s.session != nil && s.session.retryAt != 0 {
		at, ok = earlier(at, ok, s.session.retryAt)
	}
	if s.listener != nil && s.listener.paused {
		at, ok = earlier(at, ok, s.listener.resumeAt)
	}
	return at, ok
}

// earlier returns the earlier of two times, of which the first may be missing.
func earlier(at time.Duration, ok bool, other time.Duration) (time.Duration, bool) {
	if ok && at <= other {
		return at, true
	}
	return other, true
}

// Expire serves the deadlines that have come.
func (s *Server) Expire(now time.Duration) {
	if s.listener != nil && s.listener.paused && s.listener.resumeAt <= now {
		s.listener.resume()
	}
	if s.session != nil && s.patrolled+patrolInterval <= now {
		s.patrolled = now
		s.run(s.session.patrol)
	}
	if x := s.session; x != nil && x.transferring() && x.transfer.deadline <= now {
		s.run(x.transfer.expire)
	}
	if x := s.session; x != nil && x.retryAt != 0 && x.retryAt <= now {
		s.run(x.retry)
	}
	if at, ok := s.device.Deadline(); ok && at <= now {
		s.run(func() error {
			s.device.Expire(now)
			return nil
		})
	}
}

// untended reports whether there is a ring to patrol.
func (s *session) untended() bool {
	for _, r := range s.rings {
		if r.untended() {
			return true
		}
	}
	return false
}

// patrol kicks for the rings nobody can kick for.
func (s *session) patrol() error {
	for _, r := range s.rings {
		if r.untended() {
			s.server.device.Kick(r.index)
		}
	}
	return nil
}
