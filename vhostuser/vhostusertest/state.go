package vhostusertest

import (
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser"
)

// TransferAccepted is the reply to VHOST_USER_SET_DEVICE_STATE_FD of a backend
// that uses the descriptor it was given.
const TransferAccepted = 0x100

// SetDeviceStateFd sends VHOST_USER_SET_DEVICE_STATE_FD and returns the reply.
func (f *Frontend) SetDeviceStateFd(direction, phase uint32, fds ...int) uint64 {
	f.tb.Helper()
	payload := vhostuser.DeviceState{Direction: direction, Phase: phase}.AppendTo(nil)
	f.Write(Message(vhostuser.MsgSetDeviceStateFd, f.flags(), payload), fds...)
	return f.u64(vhostuser.MsgSetDeviceStateFd, f.Reply(vhostuser.MsgSetDeviceStateFd))
}

// CheckDeviceState sends VHOST_USER_CHECK_DEVICE_STATE and returns the reply: 0
// is success.
func (f *Frontend) CheckDeviceState() uint64 {
	f.tb.Helper()
	return f.u64(vhostuser.MsgCheckDeviceState, f.get(vhostuser.MsgCheckDeviceState, nil))
}

// SaveState saves the device's state as cloud-hypervisor does: through one of two
// connected sockets, to the end of the file.
func (f *Frontend) SaveState() []byte {
	f.tb.Helper()
	local := f.transfer(vhostuser.TransferSave)
	defer local.Close()
	state, err := io.ReadAll(local)
	if err != nil {
		f.tb.Fatal("read the device state:", err)
	}
	if code := f.CheckDeviceState(); code != 0 {
		f.tb.Fatalf("saving the device state failed with %d", code)
	}
	return state
}

// LoadState loads what SaveState returned, likewise, and returns the outcome: 0
// is success.
func (f *Frontend) LoadState(state []byte) uint64 {
	f.tb.Helper()
	local := f.transfer(vhostuser.TransferLoad)
	_, err := local.Write(state)
	local.Close()
	if err != nil {
		f.tb.Fatal("write the device state:", err)
	}
	return f.CheckDeviceState()
}

// transfer begins a transfer and returns our end of it.
func (f *Frontend) transfer(direction uint32) *os.File {
	f.tb.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		f.tb.Fatal("socketpair:", err)
	}
	defer unix.Close(pair[1])
	local := os.NewFile(uintptr(pair[0]), "transfer")
	if code := f.SetDeviceStateFd(direction, vhostuser.TransferStopped, pair[1]); code != TransferAccepted {
		local.Close()
		f.tb.Fatalf("SET_DEVICE_STATE_FD is answered with 0x%x", code)
	}
	return local
}
