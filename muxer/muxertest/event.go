package muxertest

import (
	"encoding/binary"
	"time"

	"github.com/vhost-user-vsock/vhost-user-vsock/virtqueue/virtqueuetest"
)

const (
	// linuxEventBuffers is how many event buffers Linux posts, of eventSize bytes
	// each, at odd addresses.
	linuxEventBuffers = 8
	eventSize         = 4
)

// events is a driver's side of the event ring.
type events struct {
	gpas   []uint64 // by head
	free   []uint64 // memory of buffers that are not posted
	former uint64   // the CID before the last TRANSPORT_RESET
}

// PostEvents posts n event buffers and kicks the device.
func (d *Driver) PostEvents(n int) {
	e := &d.events
	for range n {
		if len(e.free) == 0 {
			e.free = append(e.free, d.mem.Alloc(eventSize+2, 2)+1)
		}
		gpa := e.free[0]
		e.free = e.free[1:]
		head := int(d.o.Events.Add(virtqueuetest.Segment{Addr: gpa, Len: eventSize, Write: true}))
		for len(e.gpas) <= head {
			e.gpas = append(e.gpas, 0)
		}
		e.gpas[head] = gpa
	}
	d.o.Events.Kick()
}

// TryEvent returns the id of the device's next event, if one is there. Its buffer
// is not posted again.
func (d *Driver) TryEvent() (id uint32, ok bool) {
	u, ok := d.o.Events.Used()
	if !ok {
		return 0, false
	}
	if u.Len != eventSize {
		d.tb.Errorf("muxertest: an event of %d bytes", u.Len)
	}
	gpa := d.events.gpas[u.ID]
	d.events.free = append(d.events.free, gpa)
	return binary.LittleEndian.Uint32(d.mem.Bytes(gpa, eventSize)), true
}

// ExpectReset waits for a TRANSPORT_RESET and fails the test on any other event.
// The driver has then read its CID again; the buffer is not posted.
func (d *Driver) ExpectReset() {
	d.tb.Helper()
	for deadline := time.Now().Add(d.o.Timeout); ; {
		if id, ok := d.TryEvent(); ok {
			if id != 0 {
				d.tb.Fatalf("muxertest: event %d, want TRANSPORT_RESET", id)
			}
			d.readCID()
			return
		}
		if d.o.Events.ArmInterrupt() || d.o.Events.WaitInterrupt(time.Until(deadline)) {
			continue
		}
		if time.Now().After(deadline) {
			d.tb.Fatalf("muxertest: no TRANSPORT_RESET within %v", d.o.Timeout)
		}
	}
}

func (d *Driver) readCID() {
	if d.o.ReadCID != nil {
		d.events.former, d.o.CID = d.o.CID, d.o.ReadCID()
	}
}

// isMine reports whether a packet may have this destination: the guest's CID, the
// one that it had before a TRANSPORT_RESET, or the one that it is about to read.
func (d *Driver) isMine(cid uint64) bool {
	return cid == d.o.CID || d.o.ReadCID != nil && (cid == d.events.former || cid == d.o.ReadCID())
}

// TransportResets returns how many TRANSPORT_RESETs the guest has handled.
func (g *Guest) TransportResets() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.transportResets
}

// handleEvents does as Linux does: it reads the CID, ends all connections that
// were established, without a packet, keeps listeners and connections that are
// being opened, and posts the buffer again.
func (g *Guest) handleEvents() {
	if g.d.o.Events == nil {
		return
	}
	for {
		id, ok := g.d.TryEvent()
		if !ok {
			return
		}
		if id != 0 {
			g.d.tb.Errorf("muxertest: event %d", id)
		}
		g.transportResets++
		g.d.readCID()
		for _, c := range g.conns {
			if c.connected() && c.state != connecting {
				c.end(ErrReset)
			}
		}
		g.d.PostEvents(1)
	}
}
