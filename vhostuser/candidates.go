package vhostuser

import (
	"errors"
	"slices"

	"golang.org/x/sys/unix"
)

// maxCandidates is how many connections may wait beside a session. A restarted
// QEMU may be faster than the end of its predecessor's connection.
const maxCandidates = 8

// candidate is a connection that is not the session. It becomes one with its
// first whole message, when it is its turn: to connect alone costs the guest
// nothing.
type candidate struct {
	server *Server
	conn   *conn // owned
	ready  bool  // conn holds a whole message
}

// admit makes an accepted connection, whose ownership it takes, a candidate.
func (s *Server) admit(fd int) {
	c := &candidate{server: s, conn: newConn(fd)}
	err := errNoPlace
	if s.makeRoom() {
		err = s.loop.Add(fd, unix.EPOLLIN, c)
	}
	if err != nil {
		s.stats.CandidatesRefused.Inc()
		if log, ok := s.limits.candidates.Entry(s.log, s.loop.Now()); ok {
			log.WithError(err).Warn("connection is refused")
		}
		closeFds([]int{fd})
		return
	}
	s.candidates = append(s.candidates, c)
	s.stats.Candidates.Set(int64(len(s.candidates)))
}

// errNoPlace is why a connection is refused.
var errNoPlace = errors.New("too many frontends wait for the device")

// makeRoom reports whether there is a place for a newcomer. Where all are taken
// the oldest silent candidate has to leave.
func (s *Server) makeRoom() bool {
	if len(s.candidates) < maxCandidates {
		return true
	}
	// What somebody has sent may be among the events of this very turn.
	for _, c := range slices.Clone(s.candidates) {
		if !c.ready {
			c.receive()
		}
	}
	if len(s.candidates) < maxCandidates {
		return true
	}
	i := slices.IndexFunc(s.candidates, func(c *candidate) bool { return !c.ready })
	if i < 0 {
		return false
	}
	s.stats.CandidatesEvicted.Inc()
	if log, ok := s.limits.candidates.Entry(s.log, s.loop.Now()); ok {
		log.Warn("silent connection makes room for another")
	}
	s.dismiss(s.candidates[i])
	return true
}

// HandleEvents receives the first message, and learns when a candidate leaves.
func (c *candidate) HandleEvents(uint32) {
	if c.ready { // nothing but the end is polled for
		c.leave()
		return
	}
	c.receive()
}

// receive takes in what the candidate has sent of its first message.
func (c *candidate) receive() {
	s := c.server
	whole, err := c.conn.fill()
	if err == nil && len(c.conn.fds) > candidateFds {
		err = errManyDescriptors
	}
	if err == nil && whole {
		c.ready = true
		err = s.loop.Modify(c.conn.fd, 0)
	}
	if err != nil {
		c.leave()
		return
	}
	s.promote()
}

// candidateFds is how many descriptors a first message may bring. No frontend's
// brings any, and those that wait may not use up what is kept free for the session.
const candidateFds = 1

var errManyDescriptors = errors.New("descriptors with the first message")

// leave is the end of a candidate that left or broke the protocol.
func (c *candidate) leave() {
	c.server.stats.CandidatesGone.Inc()
	c.server.dismiss(c)
}

// promote makes the candidate that has waited longest with a message the
// session, if there is none.
func (s *Server) promote() {
	for s.session == nil && !s.closed {
		i := slices.IndexFunc(s.candidates, func(c *candidate) bool { return c.ready })
		if i < 0 {
			return
		}
		c := s.candidates[i]
		s.remove(c)
		if err := s.begin(c.conn); err != nil {
			s.log.WithError(err).Error("session cannot begin")
			continue
		}
		// Its message was received already: no event will tell of it.
		s.session.HandleEvents(unix.EPOLLIN)
	}
}

// dismiss closes a candidate's connection.
func (s *Server) dismiss(c *candidate) {
	s.remove(c)
	if err := c.conn.close(); err != nil {
		s.log.WithError(err).Error("connection cannot be closed")
	}
}

// remove takes c from the candidates; its connection is the caller's.
func (s *Server) remove(c *candidate) {
	if err := s.loop.Remove(c.conn.fd); err != nil {
		s.log.WithError(err).Error("connection cannot be removed from the loop")
	}
	s.candidates = slices.DeleteFunc(s.candidates, func(other *candidate) bool { return other == c })
	s.stats.Candidates.Set(int64(len(s.candidates)))
}
