package muxer

import (
	"encoding/binary"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
	"github.com/vhost-user-vsock/vhost-user-vsock/virtqueue"
)

// Virtqueues of the device (virtio v1.4 §5.10.2). The event queue needs no
// service: a driver that lost its connections is reset by RSTs.
const (
	rxQueue = 0
	txQueue = 1
)

// Feature bits of the device (virtio v1.4 §5.10.3) and of its rings (§6).
const (
	featureStream          = 1 << 0
	featureSeqpacket       = 1 << 1
	featureNoImpliedStream = 1 << 2
	featureIndirectDesc    = 1 << 28
	featureEventIdx        = 1 << 29
	featureVersion1        = 1 << 32
	featureInOrder         = 1 << 35
)

// Features returns the feature bits that the device offers. IN_ORDER holds
// because every chain is used in the order in which it became available.
func (m *Muxer) Features() uint64 {
	return featureStream | featureSeqpacket | featureNoImpliedStream |
		featureIndirectDesc | featureEventIdx | featureVersion1 | featureInOrder
}

// Config writes the device's configuration space, guest_cid, to the start of p
// (virtio v1.4 §5.10.4).
func (m *Muxer) Config(p []byte) {
	var cid [8]byte
	binary.LittleEndian.PutUint64(cid[:], m.cfg.GuestCID)
	copy(p, cid[:])
}

// Negotiated tells which features the driver acknowledged. No bit at all means
// streams, and so does SEQPACKET alone (virtio v1.4 §5.10.3).
func (m *Muxer) Negotiated(features uint64) {
	m.noStreams = features&featureNoImpliedStream != 0 && features&featureStream == 0
	m.seqpacket = features&featureSeqpacket != 0
}

// Attach tells that a frontend is there: a driver may come up.
func (m *Muxer) Attach() { m.attached = true }

// Detach tells that the frontend has gone, and with it the driver, as far as
// anybody knows; the rings were stopped before. Host programs that wait for a
// driver wait no longer.
func (m *Muxer) Detach() {
	m.attached = false
	m.Reset()
	for _, c := range m.waiting {
		if c.stage == stageWaiting {
			m.refuse(c, HandshakeNoGuest)
		}
	}
	clear(m.waiting)
	m.waiting = m.waiting[:0]
}

// StartQueue hands over a running ring until StopQueue. Bytes move once both the
// rx and the tx ring run; some frontends never configure the event ring.
func (m *Muxer) StartQueue(index int, q *virtqueue.Queue) {
	switch index {
	case rxQueue:
		m.rx, m.rxStall = q, false
	case txQueue:
		m.tx, m.txWaits, m.txStall, m.txFaulted = q, true, stallNone, false
		m.batch.conn = nil // a fault in guest memory may have left one
	}
	if m.running() {
		m.clock.start(m.loop.Now())
		m.promoteWaiting()
	}
}

// StopQueue takes a ring back. What the driver has published in the tx ring is
// served to the end first: it may be the last words of a guest that powers off.
func (m *Muxer) StopQueue(index int) {
	if index == rxQueue || index == txQueue {
		m.clock.stop(m.loop.Now())
	}
	switch index {
	case rxQueue:
		if m.rx != nil {
			defer func() { m.rx = nil }() // also when the guest's memory is gone
			m.rx.NotifyIfNeeded()
		}
	case txQueue:
		if m.tx != nil {
			defer func() { m.tx = nil }()
			if !m.txFaulted {
				m.serveTx(true)
			}
			m.tx.NotifyIfNeeded()
		}
	}
}

// Kick tells that the driver made buffers available.
func (m *Muxer) Kick(index int) {
	switch index {
	case rxQueue:
		m.rxStall = false
	case txQueue:
		m.txWaits = true
	}
}

// Reset tells that the driver has lost its state. Its connections are over and
// it needs no RST; host programs read what was taken for them, then end of file.
func (m *Muxer) Reset() {
	m.ready.Clear()
	for _, c := range m.table {
		c.queued = false
		if c.stage == stageOpen && c.isUnasked() {
			m.demote(c)
			continue
		}
		if c.State() == csm.Connecting && c.fd >= 0 {
			m.stats.Handshakes[HandshakeNoGuest].Inc()
		}
		c.Forget()
		m.bury(c)
	}
	clear(m.dials)
}

func (m *Muxer) running() bool { return m.rx != nil && m.tx != nil }
