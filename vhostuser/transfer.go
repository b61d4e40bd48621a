package vhostuser

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// MaxState is the largest state that a device may have, in bytes.
	MaxState = 1 << 20
	// transferTimeout is how long a transfer may take.
	transferTimeout = 10 * time.Second
	// transferPiece is how many bytes are moved in a turn of the loop.
	transferPiece = 1 << 16
)

// What goes wrong with a transfer.
var (
	errTransferKind    = errors.New("unknown direction or phase of a state transfer")
	errTransferRunning = errors.New("a state transfer is under way")
	errNoTransfer      = errors.New("there was no state transfer")
	errTransferTimeout = errors.New("the frontend did not end the state transfer in time")
	errStateSize       = errors.New("device state is larger than any")
)

// transfer is one transfer of the device's state through a descriptor that the
// frontend passed: a pipe's, or a socket's as cloud-hypervisor has it.
//
//	VHOST_USER_SET_DEVICE_STATE_FD  save: the state is taken, and written as it is read
//	                                load: it is read to its end, and the device takes it
//	VHOST_USER_CHECK_DEVICE_STATE   asks for the outcome
//
// The loop moves what can be moved and does not wait. Only a frontend that asks
// for the outcome does: its message is not looked at before the transfer has ended.
type transfer struct {
	session  *session
	load     bool
	fd       int           // owned; -1 once the transfer has ended
	state    []byte        // read so far, or not yet written
	deadline time.Duration // by the loop's clock
	err      error         // the outcome, once it has ended
}

// setDeviceStateFd serves VHOST_USER_SET_DEVICE_STATE_FD. It never offers a
// descriptor in exchange for the one that came.
func (s *session) setDeviceStateFd(m *message) ([]byte, error) {
	const noFd = 1 << 8
	if err := s.beginTransfer(m); err != nil {
		s.complain(m, err)
		return u64Payload(noFd | ackFailure), nil
	}
	return u64Payload(noFd | ackSuccess), nil
}

// beginTransfer makes the transfer that m asks for the session's.
func (s *session) beginTransfer(m *message) error {
	kind := ParseDeviceState(m.payload)
	switch {
	case len(m.fds) == 0:
		return errNoDescriptor
	case kind.Direction > TransferLoad || kind.Phase != TransferStopped:
		return errTransferKind
	case s.running():
		return errRunning
	case s.transferring():
		return errTransferRunning
	}
	if err := s.pollable(m.fds[0]); err != nil {
		return err
	}
	t := &transfer{
		session:  s,
		load:     kind.Direction == TransferLoad,
		fd:       m.takeFd(),
		deadline: s.server.loop.Now() + transferTimeout,
	}
	interest := uint32(unix.EPOLLIN)
	if !t.load {
		interest = unix.EPOLLOUT
		t.state = s.server.device.SaveState()
	}
	if err := s.server.loop.Add(t.fd, interest, t); err != nil {
		closeFds([]int{t.fd})
		return err
	}
	s.transfer = t
	return nil
}

// checkDeviceState serves VHOST_USER_CHECK_DEVICE_STATE, which tells the outcome
// of one transfer once.
// Precondition: no transfer is under way.
func (s *session) checkDeviceState(m *message) ([]byte, error) {
	if s.transfer == nil {
		s.complain(m, errNoTransfer)
		return u64Payload(ackFailure), nil
	}
	err := s.transfer.err
	s.transfer = nil
	if err != nil {
		return u64Payload(ackFailure), nil
	}
	return u64Payload(ackSuccess), nil
}

// transferring reports whether a transfer is under way.
func (s *session) transferring() bool { return s.transfer != nil && s.transfer.fd >= 0 }

// HandleEvents moves a piece of the state.
func (t *transfer) HandleEvents(uint32) { t.session.server.run(t.move) }

// move moves a piece of the state, and ends the transfer with the last one.
func (t *transfer) move() error {
	step := t.write
	if t.load {
		step = t.read
	}
	last, err := step()
	again := errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR)
	if again || err == nil && !last {
		return nil
	}
	return t.end(err)
}

// read reads a piece. The last one is the end of the file.
func (t *transfer) read() (last bool, err error) {
	piece := make([]byte, transferPiece)
	n, err := unix.Read(t.fd, piece)
	if err != nil {
		return false, os.NewSyscallError("read", err)
	}
	t.state = append(t.state, piece[:n]...)
	if len(t.state) > MaxState {
		return false, errStateSize
	}
	return n == 0, nil
}

// write writes a piece.
func (t *transfer) write() (last bool, err error) {
	n, err := unix.Write(t.fd, t.state[:min(len(t.state), transferPiece)])
	if err != nil {
		return false, os.NewSyscallError("write", err)
	}
	t.state = t.state[n:]
	return len(t.state) == 0, nil
}

// expire ends a transfer whose frontend takes too long.
func (t *transfer) expire() error { return t.end(errTransferTimeout) }

// end ends the transfer, and lets the frontend go on that may wait for it. err is
// nil when all bytes were moved.
func (t *transfer) end(err error) error {
	s := t.session
	t.close()
	if err == nil && t.load {
		err = s.loadState(t.state)
	}
	t.state, t.err = nil, err
	s.server.transferred(s, t.load, err)
	return s.serve()
}

// close gives the descriptor back: for a frontend that reads, it is the end of
// the file.
func (t *transfer) close() {
	if t.fd >= 0 {
		t.session.server.loop.Remove(t.fd) // fails for an unknown one only
		closeFds([]int{t.fd})
		t.fd = -1
	}
}

// loadState gives the device a state, if no driver uses it meanwhile. The driver
// of that state comes from elsewhere, so where rings stopped says nothing of it.
func (s *session) loadState(state []byte) error {
	if s.running() {
		return errRunning
	}
	if err := s.server.device.LoadState(state); err != nil {
		return err
	}
	s.used = true
	for _, r := range s.rings {
		r.forget()
		r.left, r.ran = nil, false
	}
	return nil
}

// transferred counts and logs the end of a transfer.
func (s *Server) transferred(x *session, load bool, err error) {
	switch {
	case err != nil:
		s.stats.StateErrors.Inc()
		if log, ok := s.limits.transfer.Entry(x.log, s.loop.Now()); ok {
			log.WithError(err).WithField("load", load).Warn("device state was not transferred")
		}
	case load:
		s.stats.StatesLoaded.Inc()
	default:
		s.stats.StatesSaved.Inc()
	}
}
