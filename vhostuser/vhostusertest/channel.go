package vhostusertest

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser"
)

// SetBackendReqFd sends VHOST_USER_SET_BACKEND_REQ_FD with one end of a new
// socket pair and keeps the other.
func (f *Frontend) SetBackendReqFd() {
	f.tb.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		f.tb.Fatal("socketpair:", err)
	}
	defer unix.Close(pair[1])
	if f.channel >= 0 {
		unix.Close(f.channel)
	}
	f.channel = pair[0]
	f.set(vhostuser.MsgSetBackendReqFd, nil, pair[1])
}

// Channel returns our end of the backend's request channel, -1 before
// SetBackendReqFd.
func (f *Frontend) Channel() int { return f.channel }

// Request receives the backend's next request and returns its payload. Its flags
// must be exactly version 1: it wants no reply, for we send none.
func (f *Frontend) Request() (vhostuser.BackendRequest, []byte) {
	f.tb.Helper()
	raw, err := receive(f.channel, vhostuser.HeaderSize)
	if err != nil {
		f.tb.Fatal("request of the backend:", err)
	}
	h := vhostuser.ParseHeader(raw)
	if h.Flags != vhostuser.FlagVersion || h.Size > vhostuser.MaxPayload {
		f.tb.Fatalf("request of the backend has the header %+v", h)
	}
	payload, err := receive(f.channel, int(h.Size))
	if err != nil {
		f.tb.Fatalf("payload of the backend's request %d: %v", h.Request, err)
	}
	return vhostuser.BackendRequest(h.Request), payload
}

// Requested reports whether the backend has sent a request that was not received.
func (f *Frontend) Requested() bool { return poll(f.channel, unix.POLLIN, time.Now()) }

// WaitCall waits until VHOST_USER_BACKEND_VRING_CALL comes for ring index, and
// reports whether it did in time. Calls for other rings are kept.
func (f *Frontend) WaitCall(index int, timeout time.Duration) bool {
	f.tb.Helper()
	for deadline := time.Now().Add(timeout); !f.called[index]; {
		if !poll(f.channel, unix.POLLIN, deadline) {
			return false
		}
		request, payload := f.Request()
		if request != vhostuser.BackendVringCall || len(payload) != 8 {
			f.tb.Fatalf("the backend's request %d of 0x%x is no call", request, payload)
		}
		f.called[int(vhostuser.ParseVringState(payload).Index)] = true
	}
	f.called[index] = false
	return true
}
