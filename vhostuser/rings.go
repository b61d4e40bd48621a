package vhostuser

import (
	"errors"
	"fmt"
	"math"

	"golang.org/x/sys/unix"
)

var (
	errNoRing    = errors.New("no such ring")
	errRunning   = errors.New("ring is running")
	errRingSize  = errors.New("ring size is out of range, or no power of two in a split ring")
	errRingFlags = errors.New("unknown ring flags")
	errAlignment = errors.New("ring is not aligned")
	errUnmapped  = errors.New("ring is not in guest memory")
	errNumber    = errors.New("number out of range")
)

const maxRingSize = 1 << 15 // virtio v1.4 §2.7

// vringState returns the ring and the number that m is about.
func (s *session) vringState(m *message) (*vring, uint32, error) {
	state := ParseVringState(m.payload)
	r, err := s.ring(state.Index)
	return r, state.Num, err
}

func (s *session) ring(index uint32) (*vring, error) {
	if uint64(index) >= uint64(len(s.rings)) {
		return nil, fmt.Errorf("%w: %d", errNoRing, index)
	}
	return s.rings[index], nil
}

// setVringNum serves VHOST_USER_SET_VRING_NUM. Where it is not known yet how the
// ring is laid out, a size that does not fit shows when the ring starts.
func (s *session) setVringNum(m *message) error {
	r, num, err := s.vringState(m)
	switch {
	case err != nil:
		return err
	case r.running:
		return errRunning
	case num == 0 || num > maxRingSize || s.split() && num&(num-1) != 0:
		return fmt.Errorf("%w: %d", errRingSize, num)
	}
	r.forget()
	r.size = int(num)
	return nil
}

// setVringAddr serves VHOST_USER_SET_VRING_ADDR. A running ring may be told its
// own addresses again: that is how logging is switched.
func (s *session) setVringAddr(m *message) error {
	addr := ParseVringAddr(m.payload)
	r, err := s.ring(addr.Index)
	if err != nil {
		return err
	}
	parts := ringParts{Desc: addr.Desc, Avail: addr.Avail, Used: addr.Used}
	switch {
	case addr.Flags&^VringFlagLog != 0:
		return errRingFlags
	case !parts.aligned(s.packed()):
		return errAlignment
	case r.running && parts == r.parts:
		r.log = addr.log()
		return nil
	case r.running:
		return errRunning
	}
	if _, ok := parts.translate(s.memory, shape{max(r.size, 1), s.packed()}); !ok {
		return errUnmapped
	}
	r.forget()
	r.parts, r.placed, r.log = parts, true, addr.log()
	return nil
}

func (s *session) setVringBase(m *message) error {
	r, base, err := s.vringState(m)
	switch {
	case err != nil:
		return err
	case r.running:
		return errRunning
	case s.split() && base > math.MaxUint16:
		return fmt.Errorf("%w: base %d", errNumber, base)
	}
	r.forget()
	r.base.set(base)
	return nil
}

// getVringBase serves VHOST_USER_GET_VRING_BASE: it stops the ring and says
// where it goes on. A stopped ring says the same again.
func (s *session) getVringBase(m *message) ([]byte, error) {
	r, _, err := s.vringState(m)
	if err != nil {
		return nil, err
	}
	r.forget()
	r.started = false
	r.kick.drop()
	r.call.drop()
	return VringState{Index: uint32(r.index), Num: r.base.answer(s.packed())}.AppendTo(nil), nil
}

func (s *session) setVringEnable(m *message) error {
	r, on, err := s.vringState(m)
	switch {
	case err != nil:
		return err
	case on > 1:
		return fmt.Errorf("%w: enable %d", errNumber, on)
	}
	r.enabled = on == 1
	if r.enabled && s.inBand() {
		r.started = true // UML sends no VHOST_USER_SET_VRING_KICK then
	}
	return nil
}

// vringKick serves VHOST_USER_VRING_KICK, the kick of a ring without descriptor.
// UML waits for its acknowledgement with interrupts off, so whatever the device
// sends meanwhile must not wait for UML.
func (s *session) vringKick(m *message) error {
	r, _, err := s.vringState(m)
	if err != nil {
		return err
	}
	r.started = true
	if r.running {
		return r.kicked()
	}
	return nil
}

// setVringKick serves VHOST_USER_SET_VRING_KICK, which starts the ring: nobody
// kicks for the buffers that are there already, as after QEMU's cont.
func (s *session) setVringKick(m *message) error {
	r, fd, err := s.vringFd(m)
	if err != nil {
		return err
	}
	if r.queue != nil && r.queue.Broken() != nil {
		r.forget() // begins again where it broke
	}
	r.setKick(fd)
	r.started = true
	if r.running {
		s.server.device.Kick(r.index) // the old descriptor may have had one
	}
	return nil
}

func (s *session) setVringCall(m *message) error {
	r, fd, err := s.vringFd(m)
	if err != nil {
		return err
	}
	r.call.set(fd)
	if r.running {
		// QEMU swaps the descriptor after it enabled the ring and whenever the
		// guest masks its interrupt: what went to the old one may be lost.
		r.interrupt()
	}
	return nil
}

func (s *session) setVringErr(m *message) error {
	r, fd, err := s.vringFd(m)
	if err != nil {
		return err
	}
	r.fault.set(fd)
	return nil
}

// vringFd returns the ring that m is about and the descriptor it brings, -1 if
// it says that there is none. The descriptor is the caller's.
func (s *session) vringFd(m *message) (*vring, int, error) {
	payload := VringFd(parseU64(m.payload))
	if payload&^(vringIndexMask|VringNoFd) != 0 {
		return nil, -1, errPayload
	}
	r, err := s.ring(uint32(payload & vringIndexMask))
	switch {
	case err != nil:
		return nil, -1, err
	case payload&VringNoFd != 0:
		return r, -1, nil
	case len(m.fds) == 0:
		return nil, -1, errNoDescriptor
	}
	if err := s.pollable(m.fds[0]); err != nil {
		return nil, -1, err
	}
	return r, m.takeFd(), nil
}

// pollable checks that fd can be polled, as eventfds, pipes and sockets can, and
// makes it non-blocking: UML passes blocking ones. Nothing else may be read or
// written on the loop.
func (s *session) pollable(fd int) error {
	if err := s.server.loop.Add(fd, 0, s); err != nil {
		return err
	}
	if err := s.server.loop.Remove(fd); err != nil {
		return err
	}
	return unix.SetNonblock(fd, true)
}
