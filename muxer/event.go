package muxer

import (
	"github.com/vhost-user-vsock/vhost-user-vsock/guestmem"
	"github.com/vhost-user-vsock/vhost-user-vsock/virtqueue"
)

// transportReset is struct virtio_vsock_event with the id VIRTIO_VSOCK_EVENT_TRANSPORT_RESET,
// 0: communication was interrupted, and the driver MUST reset the connections it
// has and read its CID again (virtio v1.4 §5.10.6.7).
var transportReset [4]byte

// eventRing is the driver's event ring. It carries no other event than
// TRANSPORT_RESET; some frontends never configure it.
type eventRing struct {
	q      *virtqueue.Queue // nil while it does not run
	there  bool             // it ran since the driver came up
	known  bool             // it ran in this session
	kicked bool             // buffers may be in it that were not looked at
	behind int              // buffers that were left behind the last event
	bufs   guestmem.Buffers
}

// serves reports whether an event can be delivered now, or once there is a buffer.
func (e *eventRing) serves() bool { return e.q != nil && e.q.Broken() == nil }

// startEvents takes the event ring. Where it comes after the others, a reset may
// be due already, or a CID wait for one.
func (m *Muxer) startEvents(q *virtqueue.Queue) {
	m.events.q, m.events.there, m.events.known, m.events.kicked = q, true, true, true
	if m.lost.due {
		m.awaitFrontend()
	} else if m.met {
		m.tellCID()
	}
}

// serveEvents delivers the TRANSPORT_RESET that is due. Once it is delivered, the
// driver's next buffer tells that it was handled: Linux refills after that. It
// reports whether more can be done at once.
func (m *Muxer) serveEvents() (more bool) {
	e := &m.events
	if e.q == nil || !e.kicked {
		return false
	}
	e.kicked = false
	switch {
	case m.lost.due && m.lost.ready:
		m.sendTransportReset()
	case !m.lost.due && m.lost.holds && e.q.Pending() > e.behind:
		m.release()
	}
	e.q.NotifyIfNeeded()
	return e.kicked
}

// sendTransportReset puts the event into the first buffer that holds it. Others go
// back unused, a ring's worth in a turn at most; without any, the event stays due.
func (m *Muxer) sendTransportReset() {
	e := &m.events
	for range e.q.Size() {
		e.bufs.Reset()
		chain, ok := e.q.Pop(&e.bufs)
		if !ok {
			e.kicked = e.q.ArmKick()
			return
		}
		if chain.Err != nil || chain.Split != chain.From || chain.WriteBytes < uint64(len(transportReset)) {
			e.q.Push(chain.Head, 0)
			continue
		}
		e.bufs.CopyIn(chain.From, chain.To, transportReset[:])
		e.q.Push(chain.Head, uint32(len(transportReset)))
		m.stats.TransportResets.Inc()
		m.transportWasReset()
		e.awaitBuffer()
		return
	}
	e.kicked = true
}

// awaitBuffer asks for a kick at the next buffer that the driver adds. There may
// be others, for which none comes any more: they are passed over for the moment.
func (e *eventRing) awaitBuffer() {
	e.behind = 0
	for e.behind < e.q.Size() {
		e.bufs.Reset()
		if _, ok := e.q.Pop(&e.bufs); !ok {
			break
		}
		e.behind++
	}
	e.kicked = e.q.ArmKick()
	e.q.Unpop(e.behind)
}
