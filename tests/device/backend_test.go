package device

import (
	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser/vhostusertest"
)

// answered are the messages that have a reply of their own.
var answered = []vhostuser.Request{
	vhostuser.MsgGetFeatures, vhostuser.MsgGetVringBase, vhostuser.MsgGetConfig,
	vhostuser.MsgSetDeviceStateFd, vhostuser.MsgCheckDeviceState, vhostuser.MsgSetLogBase,
}

// listenToBackend takes what the backend has said.
func (m *machine) listenToBackend() {
	m.replies = m.hear(m.frontend, m.replies, m.replied)
	m.requests = m.hear(m.channel, m.requests, m.requested)
}

// hear reads messages from a socket, the beginning of which may be known, hands the
// whole ones over, and returns the beginning of the next.
func (m *machine) hear(fd int, known []byte, heard func(vhostuser.Header, []byte)) []byte {
	if fd < 0 {
		return nil
	}
	for n := 1; n > 0; {
		n, _ = unix.Read(fd, m.buffer)
		known = append(known, m.buffer[:max(n, 0)]...)
	}
	for len(known) >= vhostuser.HeaderSize {
		h := vhostuser.ParseHeader(known)
		if h.Size > vhostuser.MaxPayload {
			m.t.Fatalf("the backend's message has the header %+v", h)
		}
		end := vhostuser.HeaderSize + int(h.Size)
		if len(known) < end {
			break
		}
		heard(h, known[vhostuser.HeaderSize:end])
		known = known[end:]
	}
	return known
}

// replied checks a reply: each message gets its own, once and in order, and those
// that only acknowledge say that all is well.
func (m *machine) replied(h vhostuser.Header, payload []byte) {
	if h.Flags != vhostuser.FlagVersion|vhostuser.FlagReply {
		m.t.Fatalf("reply with the header %+v", h)
	}
	if m.wild {
		if h.Request == vhostuser.MsgGetVringBase {
			m.learnBase(vhostuser.ParseVringState(payload))
		}
		return
	}
	if len(m.due) == 0 || m.due[0] != h.Request {
		m.t.Fatalf("reply to %v, due are %v", h.Request, m.due)
	}
	m.due = m.due[1:]
	switch h.Request {
	case vhostuser.MsgGetVringBase:
		m.ringStopped(vhostuser.ParseVringState(payload))
	case vhostuser.MsgSetDeviceStateFd, vhostuser.MsgCheckDeviceState:
		// A state may be junk, and a transfer may be under way.
	case vhostuser.MsgGetFeatures, vhostuser.MsgGetConfig, vhostuser.MsgSetLogBase:
	default:
		if string(payload) != string(vhostusertest.U64(0)) {
			m.t.Fatalf("%v is acknowledged by %x", h.Request, payload)
		}
	}
}

// requested serves a request of the backend.
func (m *machine) requested(h vhostuser.Header, payload []byte) {
	if h.Flags != vhostuser.FlagVersion {
		m.t.Fatalf("request of the backend with the header %+v", h)
	}
	switch request := vhostuser.BackendRequest(h.Request); {
	case request == vhostuser.BackendConfigChangeMsg && h.Size == 0:
		m.readConfig()
	case request == vhostuser.BackendVringCall && h.Size == 8:
		m.rings[vhostuser.ParseVringState(payload).Index].called = true
	case request == vhostuser.BackendVringErr && h.Size == 8 && m.wild:
	default:
		m.t.Fatalf("request of the backend with the header %+v", h)
	}
}

// learnBase notes where a ring stopped, which a frontend that has broken rules may
// not have asked to.
func (m *machine) learnBase(s vhostuser.VringState) {
	if int(s.Index) < len(m.rings) {
		m.rings[s.Index].at = s.Num
	}
}

// ringStopped checks that a ring that stops is given back whole: the device holds
// no chain of it; of the tx ring it has used every one, and others it would get again.
func (m *machine) ringStopped(s vhostuser.VringState) {
	if int(s.Index) >= len(m.rings) {
		m.t.Fatalf("ring %d stopped", s.Index)
	}
	r := m.rings[s.Index]
	r.at = s.Num
	if used, added := r.UsedIdx(), r.AvailIdx(); s.Index == vhostusertest.TxIndex && used != added && !r.disabled {
		m.t.Errorf("tx ring stopped with %d chains used of %d", used, added)
	}
	switch {
	case r.Config().Packed && r.at>>16 != r.at&0xffff:
		m.t.Errorf("ring %d stopped at %#x, used %#x", s.Index, r.at&0xffff, r.at>>16)
	case !r.Config().Packed && uint16(r.at) != r.UsedIdx():
		m.t.Errorf("ring %d stopped at %d, used %d", s.Index, r.at, r.UsedIdx())
	}
}
