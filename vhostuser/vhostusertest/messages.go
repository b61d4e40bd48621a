package vhostusertest

import (
	"encoding/binary"

	"github.com/vhost-user-vsock/vhost-user-vsock/guestmem"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser"
)

// U64 returns the payload that is one number.
func U64(v uint64) []byte { return binary.NativeEndian.AppendUint64(nil, v) }

// get sends a message that has a reply of its own.
func (f *Frontend) get(request vhostuser.Request, payload []byte) []byte {
	f.tb.Helper()
	f.Write(Message(request, f.flags(), payload))
	return f.Reply(request)
}

// set sends a message that has none, and wants success if it is acknowledged.
func (f *Frontend) set(request vhostuser.Request, payload []byte, fds ...int) {
	f.tb.Helper()
	f.Write(Message(request, f.flags(), payload), fds...)
	if !f.NeedReply || !f.acks {
		return
	}
	if code := f.u64(request, f.Reply(request)); code != 0 {
		f.tb.Fatalf("%v failed with %d", request, code)
	}
}

func (f *Frontend) flags() vhostuser.Flags {
	if f.NeedReply {
		return vhostuser.FlagNeedReply
	}
	return 0
}

// GetFeatures sends VHOST_USER_GET_FEATURES.
func (f *Frontend) GetFeatures() uint64 {
	f.tb.Helper()
	return f.u64(vhostuser.MsgGetFeatures, f.get(vhostuser.MsgGetFeatures, nil))
}

// SetFeatures sends VHOST_USER_SET_FEATURES.
func (f *Frontend) SetFeatures(features uint64) {
	f.tb.Helper()
	f.set(vhostuser.MsgSetFeatures, U64(features))
}

// SetOwner sends VHOST_USER_SET_OWNER.
func (f *Frontend) SetOwner() { f.tb.Helper(); f.set(vhostuser.MsgSetOwner, nil) }

// ResetOwner sends VHOST_USER_RESET_OWNER.
func (f *Frontend) ResetOwner() { f.tb.Helper(); f.set(vhostuser.MsgResetOwner, nil) }

// GetProtocolFeatures sends VHOST_USER_GET_PROTOCOL_FEATURES.
func (f *Frontend) GetProtocolFeatures() vhostuser.ProtocolFeatures {
	f.tb.Helper()
	const request = vhostuser.MsgGetProtocolFeatures
	return vhostuser.ProtocolFeatures(f.u64(request, f.get(request, nil)))
}

// SetProtocolFeatures sends VHOST_USER_SET_PROTOCOL_FEATURES. Like UML it takes
// the features for negotiated before it sends them.
func (f *Frontend) SetProtocolFeatures(features vhostuser.ProtocolFeatures) {
	f.tb.Helper()
	f.acks = features&vhostuser.ProtocolReplyAck != 0
	f.set(vhostuser.MsgSetProtocolFeatures, U64(uint64(features)))
}

// GetQueueNum sends VHOST_USER_GET_QUEUE_NUM.
func (f *Frontend) GetQueueNum() uint64 {
	f.tb.Helper()
	return f.u64(vhostuser.MsgGetQueueNum, f.get(vhostuser.MsgGetQueueNum, nil))
}

// SetMemTable sends VHOST_USER_SET_MEM_TABLE, region i with fds[i], and padding
// bytes behind the regions.
func (f *Frontend) SetMemTable(regions []guestmem.Region, fds []int, padding int) {
	f.tb.Helper()
	payload := vhostuser.MemRegions(regions).AppendTo(nil)
	f.set(vhostuser.MsgSetMemTable, append(payload, make([]byte, padding)...), fds...)
}

// GetMaxMemSlots sends VHOST_USER_GET_MAX_MEM_SLOTS.
func (f *Frontend) GetMaxMemSlots() uint64 {
	f.tb.Helper()
	return f.u64(vhostuser.MsgGetMaxMemSlots, f.get(vhostuser.MsgGetMaxMemSlots, nil))
}

// AddMemReg sends VHOST_USER_ADD_MEM_REG.
func (f *Frontend) AddMemReg(region guestmem.Region, fd int) {
	f.tb.Helper()
	f.set(vhostuser.MsgAddMemReg, vhostuser.SingleMemRegion(region).AppendTo(nil), fd)
}

// RemMemReg sends VHOST_USER_REM_MEM_REG.
func (f *Frontend) RemMemReg(region guestmem.Region) {
	f.tb.Helper()
	f.set(vhostuser.MsgRemMemReg, vhostuser.SingleMemRegion(region).AppendTo(nil))
}

// SetVringNum sends VHOST_USER_SET_VRING_NUM.
func (f *Frontend) SetVringNum(index, num uint32) {
	f.tb.Helper()
	f.set(vhostuser.MsgSetVringNum, State(index, num))
}

// SetVringAddr sends VHOST_USER_SET_VRING_ADDR.
func (f *Frontend) SetVringAddr(addr vhostuser.VringAddr) {
	f.tb.Helper()
	f.set(vhostuser.MsgSetVringAddr, addr.AppendTo(nil))
}

// SetVringBase sends VHOST_USER_SET_VRING_BASE.
func (f *Frontend) SetVringBase(index, base uint32) {
	f.tb.Helper()
	f.set(vhostuser.MsgSetVringBase, State(index, base))
}

// GetVringBase sends VHOST_USER_GET_VRING_BASE.
func (f *Frontend) GetVringBase(index uint32) uint32 {
	f.tb.Helper()
	reply := f.get(vhostuser.MsgGetVringBase, State(index, 0))
	if len(reply) != 8 || vhostuser.ParseVringState(reply).Index != index {
		f.tb.Fatalf("reply to GET_VRING_BASE of ring %d is 0x%x", index, reply)
	}
	return vhostuser.ParseVringState(reply).Num
}

// SetVringEnable sends VHOST_USER_SET_VRING_ENABLE.
func (f *Frontend) SetVringEnable(index uint32, on bool) {
	f.tb.Helper()
	num := uint32(0)
	if on {
		num = 1
	}
	f.set(vhostuser.MsgSetVringEnable, State(index, num))
}

// VringKick sends VHOST_USER_VRING_KICK.
func (f *Frontend) VringKick(index uint32) {
	f.tb.Helper()
	f.set(vhostuser.MsgVringKick, State(index, 0))
}

// SetVringKick sends VHOST_USER_SET_VRING_KICK, with the "no descriptor" bit
// when fd is negative.
func (f *Frontend) SetVringKick(index uint32, fd int) {
	f.tb.Helper()
	f.vringFd(vhostuser.MsgSetVringKick, index, fd)
}

// SetVringCall sends VHOST_USER_SET_VRING_CALL likewise.
func (f *Frontend) SetVringCall(index uint32, fd int) {
	f.tb.Helper()
	f.vringFd(vhostuser.MsgSetVringCall, index, fd)
}

// SetVringErr sends VHOST_USER_SET_VRING_ERR likewise.
func (f *Frontend) SetVringErr(index uint32, fd int) {
	f.tb.Helper()
	f.vringFd(vhostuser.MsgSetVringErr, index, fd)
}

func (f *Frontend) vringFd(request vhostuser.Request, index uint32, fd int) {
	f.tb.Helper()
	if fd < 0 {
		f.set(request, U64(uint64(index)|uint64(vhostuser.VringNoFd)))
		return
	}
	f.set(request, U64(uint64(index)), fd)
}

// GetConfig sends VHOST_USER_GET_CONFIG with as many dummy bytes as it asks for,
// and returns the config space bytes.
func (f *Frontend) GetConfig(offset, size, flags uint32) []byte {
	f.tb.Helper()
	space := vhostuser.ConfigSpace{Offset: offset, Size: size, Flags: flags}
	head := space.AppendTo(nil)
	reply := f.get(vhostuser.MsgGetConfig, append(head, make([]byte, size)...))
	if len(reply) != len(head)+int(size) {
		f.tb.Fatalf("reply to GET_CONFIG of %d bytes has %d", size, len(reply))
	}
	f.equal("head of the reply to GET_CONFIG", reply[:len(head)], head)
	return reply[len(head):]
}

// SetConfig sends VHOST_USER_SET_CONFIG.
func (f *Frontend) SetConfig(offset, flags uint32, p []byte) {
	f.tb.Helper()
	space := vhostuser.ConfigSpace{Offset: offset, Size: uint32(len(p)), Flags: flags}
	f.set(vhostuser.MsgSetConfig, append(space.AppendTo(nil), p...))
}

// ResetDevice sends VHOST_USER_RESET_DEVICE.
func (f *Frontend) ResetDevice() { f.tb.Helper(); f.set(vhostuser.MsgResetDevice, nil) }

// State returns the payload of the messages about one number of one ring.
func State(index, num uint32) []byte {
	return vhostuser.VringState{Index: index, Num: num}.AppendTo(nil)
}
