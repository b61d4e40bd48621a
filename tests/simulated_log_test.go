package tests

import (
	"bytes"
	"maps"
	"testing"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer/muxertest"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser/vhostusertest"
	"github.com/vhost-user-vsock/vhost-user-vsock/virtqueue/virtqueuetest"
)

// Whatever page the daemon writes while a machine migrates is in a log, though logs are
// replaced all the time; and hardly any other page is. The driver sleeps meanwhile: what
// changes in memory is the daemon's doing.
func TestSimulatedDirtyLog(t *testing.T) {
	t.Parallel()
	const down, piece = 200 * kib, 4 * kib
	extent := virtqueuetest.Extent{GuestAddr: 1 << 20, Size: 8 << 20}
	h := newHost(t)
	b := h.plug(t, func(f *vhostusertest.Frontend, g *vhostusertest.Guest) vhostusertest.Peer {
		return vhostusertest.NewCloudHypervisor(f, g)
	}, vhostusertest.GuestOptions{Extents: []virtqueuetest.Extent{extent}})
	ch := b.peer.(*vhostusertest.CloudHypervisor)
	ch.Start()
	d := b.driver()
	port, l := b.listen()
	d.Send(d.Header(lastWordsPort, port, csm.OpRequest), nil)
	d.Expect(csm.OpResponse)
	c := acceptFrom(t, l)

	ch.Stop()
	up := publish(d, b.memory.Tx(), port)
	memory := func() []byte { return bytes.Clone(b.memory.Memory.Bytes(extent.GuestAddr, extent.Size)) }
	before := memory()
	ch.StartDirtyLog()
	ch.Resume()
	marked := map[uint64]bool{}
	data := bytesOf(down)
	for at := 0; at < down; at += piece {
		mustWrite(t, c, data[at:at+piece])
		maps.Copy(marked, ch.DirtyLog())
	}
	mustReadJust(t, c, up)
	h.await(down, "payload_bytes_total", `direction="rx"`)
	ch.Stop()
	after := memory()
	maps.Copy(marked, ch.DirtyLog())

	written := 0
	for at := 0; at < len(before); at += page {
		if bytes.Equal(before[at:at+page], after[at:at+page]) {
			continue
		}
		written++
		if gpa := extent.GuestAddr + uint64(at); !marked[gpa] {
			t.Errorf("page 0x%x was written and is in no log", gpa)
		}
	}
	if written < down/page || len(marked) > written+4 { // avail_event may be written as it was
		t.Errorf("%d pages are marked, %d were written", len(marked), written)
	}
	mustReceive(t, d, data)
}

// mustReceive takes packets from the daemon until all of data came.
func mustReceive(t *testing.T, d *muxertest.Driver, data []byte) {
	t.Helper()
	for len(data) > 0 {
		p, ok := d.Recv(patience)
		switch {
		case !ok:
			t.Fatalf("%d bytes did not arrive", len(data))
		case p.Op == csm.OpRW && !bytes.HasPrefix(data, p.Payload):
			t.Fatalf("with %d bytes to come, %d others arrived", len(data), len(p.Payload))
		case p.Op == csm.OpRW:
			data = data[len(p.Payload):]
		}
	}
}
