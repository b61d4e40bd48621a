package vhostuser

import (
	"io"
	"slices"
	"time"

	"github.com/hashicorp/go-multierror"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/guestmem"
)

// messagesPerTurn bounds what one frontend may have served in a turn of the
// loop, so that a flood of messages starves nobody.
const messagesPerTurn = 32

// session is what one frontend negotiated, and the rings and memory it passed.
type session struct {
	server   *Server
	log      logrus.FieldLogger
	conn     *conn  // owned
	interest uint32 // in the connection's events

	features   uint64 // offered ones that the driver took
	negotiated bool   // VHOST_USER_SET_FEATURES came since the last reset
	rings      []*vring
	protocol   ProtocolFeatures
	memory     *guestmem.Table    // owned, never nil
	dirty      *guestmem.DirtyLog // owned, nil if nothing is to be logged
	backend    backend
	transfer   *transfer // the latest whose outcome was not asked for, nil if none

	// retryAt is when what the kernel had no memory for is sent again, by the loop's
	// clock; 0 if nothing waits for that.
	retryAt time.Duration

	// used says that a ring has run, or state was loaded, since the device was last
	// reset, so that a driver may have state to lose.
	used bool
	// inherited says that the device knows that its driver is older than the session.
	inherited bool
}

// newSession takes ownership of c.
func newSession(server *Server, c *conn, log logrus.FieldLogger) *session {
	memory, _ := guestmem.Map(nil, nil) // nothing to map, nothing to fail
	s := &session{
		server:   server,
		log:      log,
		conn:     c,
		interest: unix.EPOLLIN,
		memory:   memory,
	}
	s.backend = newBackend(s)
	for i := range server.queues {
		s.rings = append(s.rings, newVring(s, i))
	}
	return s
}

// HandleEvents serves what the frontend has sent. One that waits for the end of a
// transfer is not listened to, and can only be gone.
func (s *session) HandleEvents(events uint32) {
	s.server.run(func() error {
		if s.interest == 0 && events&(unix.EPOLLHUP|unix.EPOLLERR) != 0 {
			return io.EOF
		}
		return s.serve()
	})
}

// serve handles messages until none is whole. A frontend that does not read its
// replies is not heard until it has.
func (s *session) serve() error {
	for range messagesPerTurn {
		if sent, err := s.flush(); !sent {
			return err
		}
		whole, err := s.conn.fill()
		if err != nil {
			return err
		}
		if !whole {
			break
		}
		if s.transferring() && s.conn.request() == MsgCheckDeviceState {
			return s.listen(0) // until the transfer ends
		}
		m := s.conn.take()
		if err := s.handle(&m); err != nil {
			return err
		}
	}
	if sent, err := s.flush(); !sent {
		return err
	}
	return s.listen(unix.EPOLLIN)
}

// flush sends what is left of the latest reply, and reports whether all of it has
// gone; else serve is called again when more can go.
func (s *session) flush() (sent bool, err error) {
	sent, err = s.conn.flush()
	switch {
	case noMemory(err):
		s.awaitMemory()
		return false, s.listen(0)
	case err == nil && !sent:
		return false, s.listen(unix.EPOLLOUT)
	}
	return sent, err
}

// listen sets which events of the connection the session waits for.
func (s *session) listen(interest uint32) error {
	if s.interest == interest {
		return nil
	}
	s.interest = interest
	return s.server.loop.Modify(s.conn.fd, interest)
}

// suspended reports whether a driver's rings have all stopped: until one runs
// again the frontend may not be told anything unasked. Before any has run a
// booting guest reads the config space, and has to find it true.
func (s *session) suspended() bool {
	return s.used && !s.running()
}

// running reports whether the device has any ring.
func (s *session) running() bool {
	return slices.ContainsFunc(s.rings, func(r *vring) bool { return r.running })
}

// ran reports whether any ring has run, with the device's present state.
func (s *session) ran() bool {
	return slices.ContainsFunc(s.rings, func(r *vring) bool { return r.ran })
}

// stop ends what the session has running: no ring's memory is touched again.
// Each ring is stopped, whatever becomes of the others.
func (s *session) stop() error {
	var result *multierror.Error
	for _, r := range s.rings {
		if r.running {
			result = multierror.Append(result, s.server.guard(func() error { r.stop(); return nil }))
		}
	}
	return result.ErrorOrNil()
}

// close releases everything the session owns. Its rings have been stopped.
func (s *session) close() error {
	var result *multierror.Error
	for _, r := range s.rings {
		r.close()
	}
	s.backend.close()
	if s.transfer != nil {
		s.transfer.close()
	}
	result = multierror.Append(result, s.unlog(s.dirty))
	return multierror.Append(result, s.memory.Close(), s.conn.close()).ErrorOrNil()
}
