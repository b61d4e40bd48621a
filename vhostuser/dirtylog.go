package vhostuser

import "github.com/vhost-user-vsock/vhost-user-vsock/guestmem"

// While a virtual machine migrates, its frontend wants to know which pages the
// device has written to. It passes a log (VHOST_USER_SET_LOG_BASE), and says what
// is to be logged: buffers by a feature bit (VHOST_F_LOG_ALL), used rings ring by
// ring (VHOST_USER_SET_VRING_ADDR). All of it changes while rings run.

// setLogBase serves VHOST_USER_SET_LOG_BASE. When it returns nothing is written to
// the former log any more: cloud-hypervisor reads each after it passed the next.
func (s *session) setLogBase(m *message) ([]byte, error) {
	if len(m.fds) == 0 {
		return nil, errNoDescriptor
	}
	region := ParseLogRegion(m.payload)
	dirty, err := guestmem.MapDirtyLog(m.fds[0], region.Size, region.Offset)
	if err != nil {
		return nil, err
	}
	former := s.dirty
	s.dirty = dirty
	s.relog()
	return region.AppendTo(nil), s.unlog(former)
}

// setLogFd serves VHOST_USER_SET_LOG_FD. Whoever passes a log looks into it when
// it wants to, so nobody waits to be told by this descriptor: it is closed.
func (s *session) setLogFd(m *message) error {
	if len(m.fds) == 0 {
		return errNoDescriptor
	}
	return nil
}

// relog makes the rings write to the log what they are to write now.
func (s *session) relog() {
	for _, r := range s.rings {
		r.relog()
	}
}

// unlog unmaps a log to which no ring writes any more; nil is none.
func (s *session) unlog(dirty *guestmem.DirtyLog) error {
	if dirty == nil {
		return nil
	}
	if lost := dirty.Lost(); lost > 0 {
		s.server.stats.LogPagesLost.Add(lost)
		if log, ok := s.server.limits.lost.Entry(s.log, s.server.loop.Now()); ok {
			log.WithField("pages", lost).Warn("dirty log is smaller than the guest's memory")
		}
	}
	return dirty.Close()
}
