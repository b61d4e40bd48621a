package muxer

import "github.com/vhost-user-vsock/vhost-user-vsock/csm"

// reset is an RST that a guest is owed for a connection that is in no table.
type reset struct {
	key key
	cid uint64 // the address that the guest used for its peer
	typ csm.Type
}

// rxItem is what waits for a receive buffer: a connection with something to
// say, or without one an RST.
type rxItem struct {
	conn  *conn
	reset reset
}

// resetFor returns the RST that answers a packet: addresses swapped, the type as
// it was (virtio v1.4 §5.10.6.4).
func resetFor(h *csm.Header) reset {
	return reset{key: key{guest: h.SrcPort, host: h.DstPort}, cid: h.DstCID, typ: h.Type}
}

// pushReset makes an RST due. The lane holds one for every connection, those that
// replyLimit admits, and one for every entry of a tx ring that stops.
func (m *Muxer) pushReset(r reset, reason ResetReason) {
	m.stats.Resets[reason].Inc()
	m.ready.PushReset(rxItem{reset: r})
}

// schedule queues a connection that has something for the guest.
func (m *Muxer) schedule(c *conn) {
	if !c.queued {
		m.awaitTurn(c)
		c.queued = m.ready.PushReady(rxItem{conn: c})
	}
}

// resync refills the overflowed queue from the table.
func (m *Muxer) resync() {
	m.stats.RxResyncs.Inc()
	hold := m.pressed()
	m.ready.Rebuild(func(yield func(rxItem) bool) {
		for _, c := range m.table {
			c.queued = false
		}
		for _, c := range m.table {
			if !c.Due(hold) && !c.wantsRead() {
				m.leaveTurn(c)
				continue
			}
			if !yield(rxItem{conn: c}) {
				return
			}
			c.queued = true
		}
	})
}
