package muxer

import (
	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
	"github.com/vhost-user-vsock/vhost-user-vsock/trace"
	"github.com/vhost-user-vsock/vhost-user-vsock/virtqueue"
)

// SetTrace has packets recorded from now on, or with nil no more, and returns the
// Recorder that did so before. Without one a packet costs a comparison.
func (m *Muxer) SetTrace(r *trace.Recorder) (former *trace.Recorder) {
	former, m.trace = m.trace, r
	return former
}

// traceTx records the packet of a chain whose header is in m.wire and m.hdr.
func (m *Muxer) traceTx(chain *virtqueue.Chain) {
	if m.trace != nil {
		m.recordTx(chain)
	}
}

func (m *Muxer) recordTx(chain *virtqueue.Chain) {
	n := 0 // only RW has payload
	if m.hdr.Op == csm.OpRW {
		n = int(min(uint64(m.hdr.Len), chain.ReadBytes-csm.HeaderSize))
	}
	// The header, too, is read again, and is then replaced by what we go by.
	m.txBufs.CopyOut(chain.From, chain.To, m.trace.Room(n))
	m.trace.Packet(&m.wire, n)
}

// traceShort records a chain that has no whole header: that it came from the guest is
// all there is to know.
func (m *Muxer) traceShort(chain *virtqueue.Chain) {
	if m.trace != nil {
		n := m.txBufs.CopyOut(chain.From, chain.To, m.trace.Room(0)[:chain.ReadBytes])
		m.trace.Short(m.cid.active, csm.HostCID, n)
	}
}

// traceRx records the packet whose header is in m.wire and whose payload is the first n
// bytes of the ranges [from, to) of rxBufs.
func (m *Muxer) traceRx(from, to, n int) {
	if m.trace != nil {
		m.rxBufs.CopyOut(from, to, m.trace.Room(n)[csm.HeaderSize:])
		m.trace.Packet(&m.wire, n)
	}
}
