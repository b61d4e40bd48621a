package vhostuser_test

import (
	"bytes"
	"testing"

	"github.com/vhost-user-vsock/vhost-user-vsock/guestmem"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser"
)

// The bytes of the protocol, one field a line, typed from the specification of
// vhost-user and not from our encoder.
var golden = struct{ getFeatures, getFeaturesReply, setVringEnable, ack, nack, setVringCall, getConfig []byte }{
	getFeatures: []byte{
		1, 0, 0, 0, // VHOST_USER_GET_FEATURES
		1, 0, 0, 0, // version 1
		0, 0, 0, 0, // no payload
	},
	getFeaturesReply: []byte{
		1, 0, 0, 0, // VHOST_USER_GET_FEATURES
		5, 0, 0, 0, // version 1, REPLY
		8, 0, 0, 0, // payload size
		0, 0, 0, 0x74, 1, 0, 0, 0, // VERSION_1, PROTOCOL_FEATURES, EVENT_IDX, INDIRECT_DESC, LOG_ALL
	},
	setVringEnable: []byte{
		18, 0, 0, 0, // VHOST_USER_SET_VRING_ENABLE
		9, 0, 0, 0, // version 1, NEED_REPLY
		8, 0, 0, 0, // payload size
		1, 0, 0, 0, // ring
		1, 0, 0, 0, // on
	},
	ack: []byte{
		18, 0, 0, 0, // VHOST_USER_SET_VRING_ENABLE
		5, 0, 0, 0, // version 1, REPLY: not NEED_REPLY
		8, 0, 0, 0, // payload size
		0, 0, 0, 0, 0, 0, 0, 0, // success
	},
	nack: []byte{
		18, 0, 0, 0, // VHOST_USER_SET_VRING_ENABLE
		5, 0, 0, 0, // version 1, REPLY
		8, 0, 0, 0, // payload size
		1, 0, 0, 0, 0, 0, 0, 0, // failure
	},
	setVringCall: []byte{
		13, 0, 0, 0, // VHOST_USER_SET_VRING_CALL
		1, 0, 0, 0, // version 1
		8, 0, 0, 0, // payload size
		2, 1, 0, 0, 0, 0, 0, 0, // ring 2, no descriptor
	},
	getConfig: []byte{
		24, 0, 0, 0, // VHOST_USER_GET_CONFIG
		1, 0, 0, 0, // version 1
		20, 0, 0, 0, // payload size
		0, 0, 0, 0, // offset
		8, 0, 0, 0, // size
		0, 0, 0, 0, // flags
		0, 0, 0, 0, 0, 0, 0, 0, // room for the answer
	},
}

// A session in raw bytes.
func TestGoldenSession(t *testing.T) {
	b := newBackend(t)
	f := b.dial()
	want := func(reply []byte) {
		t.Helper()
		if got := f.Read(len(reply)); !bytes.Equal(got, reply) {
			t.Fatalf("received %x\nwant     %x", got, reply)
		}
	}
	f.Write(golden.getFeatures)
	want(golden.getFeaturesReply)
	f.Write([]byte{
		15, 0, 0, 0, // VHOST_USER_GET_PROTOCOL_FEATURES
		1, 0, 0, 0,
		0, 0, 0, 0,
	})
	want([]byte{
		15, 0, 0, 0,
		5, 0, 0, 0,
		8, 0, 0, 0,
		0x2b, 0xa2, 8, 0, 0, 0, 0, 0, // MQ, LOG_SHMFD, REPLY_ACK, BACKEND_REQ, CONFIG, RESET_DEVICE, CONFIGURE_MEM_SLOTS, DEVICE_STATE
	})
	f.Write([]byte{
		16, 0, 0, 0, // VHOST_USER_SET_PROTOCOL_FEATURES
		9, 0, 0, 0, // with NEED_REPLY, as UML sends it
		8, 0, 0, 0,
		0x2b, 0xa2, 8, 0, 0, 0, 0, 0,
	})
	want([]byte{
		16, 0, 0, 0,
		5, 0, 0, 0,
		8, 0, 0, 0,
		0, 0, 0, 0, 0, 0, 0, 0,
	})
	f.Write(golden.setVringEnable)
	want(golden.ack)
	bad := bytes.Clone(golden.setVringEnable)
	bad[16] = 2
	f.Write(bad)
	want(golden.nack)
	f.Write(golden.setVringCall)
	f.Write(golden.getConfig)
	want([]byte{
		24, 0, 0, 0,
		5, 0, 0, 0,
		20, 0, 0, 0,
		0, 0, 0, 0,
		8, 0, 0, 0,
		0, 0, 0, 0,
		3, 0, 0, 0, 0, 0, 0, 0, // the device's config space
	})
	f.Write([]byte{
		17, 0, 0, 0, // VHOST_USER_GET_QUEUE_NUM
		1, 0, 0, 0,
		0, 0, 0, 0,
	})
	want([]byte{
		17, 0, 0, 0,
		5, 0, 0, 0,
		8, 0, 0, 0,
		3, 0, 0, 0, 0, 0, 0, 0,
	})
	f.Write([]byte{
		36, 0, 0, 0, // VHOST_USER_GET_MAX_MEM_SLOTS
		1, 0, 0, 0,
		0, 0, 0, 0,
	})
	want([]byte{
		36, 0, 0, 0,
		5, 0, 0, 0,
		8, 0, 0, 0,
		0xfd, 1, 0, 0, 0, 0, 0, 0, // 509
	})
	f.Write([]byte{
		6, 0, 0, 0, // VHOST_USER_SET_LOG_BASE
		1, 0, 0, 0,
		16, 0, 0, 0,
		0, 1, 0, 0, 0, 0, 0, 0, // size
		0, 0x10, 0, 0, 0, 0, 0, 0, // offset
	}, memfd(t, 0x1100))
	want([]byte{
		6, 0, 0, 0,
		5, 0, 0, 0,
		16, 0, 0, 0,
		0, 1, 0, 0, 0, 0, 0, 0,
		0, 0x10, 0, 0, 0, 0, 0, 0,
	})
	f.Write([]byte{
		7, 0, 0, 0, // VHOST_USER_SET_LOG_FD
		9, 0, 0, 0,
		0, 0, 0, 0,
	}, eventfd(t))
	want([]byte{
		7, 0, 0, 0,
		5, 0, 0, 0,
		8, 0, 0, 0,
		0, 0, 0, 0, 0, 0, 0, 0,
	})
	f.Write([]byte{
		42, 0, 0, 0, // VHOST_USER_SET_DEVICE_STATE_FD
		1, 0, 0, 0,
		8, 0, 0, 0,
		0, 0, 0, 0, // save
		0, 0, 0, 0, // stopped
	}, pipe(t)[1])
	want([]byte{
		42, 0, 0, 0,
		5, 0, 0, 0,
		8, 0, 0, 0,
		0, 1, 0, 0, 0, 0, 0, 0, // no error, no descriptor
	})
	f.Write([]byte{
		43, 0, 0, 0, // VHOST_USER_CHECK_DEVICE_STATE
		1, 0, 0, 0,
		0, 0, 0, 0,
	})
	want([]byte{
		43, 0, 0, 0,
		5, 0, 0, 0,
		8, 0, 0, 0,
		0, 0, 0, 0, 0, 0, 0, 0,
	})
	f.Write([]byte{
		42, 0, 0, 0, // VHOST_USER_SET_DEVICE_STATE_FD
		1, 0, 0, 0,
		8, 0, 0, 0,
		2, 0, 0, 0, // no such direction
		0, 0, 0, 0,
	}, pipe(t)[1])
	want([]byte{
		42, 0, 0, 0,
		5, 0, 0, 0,
		8, 0, 0, 0,
		1, 1, 0, 0, 0, 0, 0, 0, // an error, no descriptor
	})
	f.Write([]byte{
		10, 0, 0, 0, // VHOST_USER_SET_VRING_BASE
		1, 0, 0, 0,
		8, 0, 0, 0,
		1, 0, 0, 0, // ring
		0x34, 0x12, 0, 0, // base
	})
	f.Write([]byte{
		11, 0, 0, 0, // VHOST_USER_GET_VRING_BASE
		1, 0, 0, 0,
		8, 0, 0, 0,
		1, 0, 0, 0, // ring
		0, 0, 0, 0,
	})
	want([]byte{
		11, 0, 0, 0,
		5, 0, 0, 0,
		8, 0, 0, 0,
		1, 0, 0, 0, // ring
		0x34, 0x12, 0, 0, // base
	})
}

// The codec of the structs against typed bytes.
func TestGoldenPayloads(t *testing.T) {
	header := vhostuser.Header{Request: vhostuser.MsgSetVringEnable, Flags: vhostuser.FlagVersion | vhostuser.FlagNeedReply, Size: 8}
	addr := vhostuser.VringAddr{Index: 2, Flags: 1, Desc: 0x1112131415161718, Used: 0x2122232425262728, Avail: 0x3132333435363738, Log: 0x4142434445464748}
	region := guestmem.Region{GuestAddr: 0x1000, Size: 0x2000, UserAddr: 0x7f0000003000, Offset: 0x4000}
	space := vhostuser.ConfigSpace{Offset: 1, Size: 2, Flags: 3}
	state := vhostuser.VringState{Index: 1, Num: 256}
	regionBytes := []byte{
		0, 0x10, 0, 0, 0, 0, 0, 0, // guest address
		0, 0x20, 0, 0, 0, 0, 0, 0, // size
		0, 0x30, 0, 0, 0, 0x7f, 0, 0, // user address
		0, 0x40, 0, 0, 0, 0, 0, 0, // offset in the file
	}
	for _, c := range []struct {
		name      string
		got, want []byte
	}{
		{"header", header.AppendTo(nil), golden.setVringEnable[:12]},
		{"state", state.AppendTo(nil), []byte{
			1, 0, 0, 0, // ring
			0, 1, 0, 0, // number
		}},
		{"addr", addr.AppendTo(nil), []byte{
			2, 0, 0, 0, // ring
			1, 0, 0, 0, // flags
			0x18, 0x17, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11, // descriptor table
			0x28, 0x27, 0x26, 0x25, 0x24, 0x23, 0x22, 0x21, // used ring
			0x38, 0x37, 0x36, 0x35, 0x34, 0x33, 0x32, 0x31, // available ring
			0x48, 0x47, 0x46, 0x45, 0x44, 0x43, 0x42, 0x41, // log
		}},
		{"table", vhostuser.MemRegions{region}.AppendTo(nil), append([]byte{
			1, 0, 0, 0, // regions
			0, 0, 0, 0, // padding
		}, regionBytes...)},
		{"region", vhostuser.SingleMemRegion(region).AppendTo(nil), append([]byte{
			0, 0, 0, 0, 0, 0, 0, 0, // padding
		}, regionBytes...)},
		{"log", vhostuser.LogRegion{Size: 0x221, Offset: 0x3000}.AppendTo(nil), []byte{
			0x21, 2, 0, 0, 0, 0, 0, 0, // size
			0, 0x30, 0, 0, 0, 0, 0, 0, // offset
		}},
		{"device state", vhostuser.DeviceState{Direction: vhostuser.TransferLoad, Phase: 2}.AppendTo(nil), []byte{
			1, 0, 0, 0, // direction
			2, 0, 0, 0, // phase
		}},
		{"config", space.AppendTo(nil), []byte{
			1, 0, 0, 0, // offset
			2, 0, 0, 0, // size
			3, 0, 0, 0, // flags
		}},
	} {
		if !bytes.Equal(c.got, c.want) {
			t.Errorf("%s is %x\nwant %x", c.name, c.got, c.want)
		}
	}
	if got := vhostuser.ParseHeader(golden.setVringEnable); got != header {
		t.Errorf("header %+v", got)
	}
	if got := vhostuser.ParseVringAddr(addr.AppendTo(nil)); got != addr {
		t.Errorf("addr %+v", got)
	}
	if got := vhostuser.ParseVringState(state.AppendTo(nil)); got != state {
		t.Errorf("state %+v", got)
	}
	if got := vhostuser.ParseConfigSpace(space.AppendTo(nil)); got != space {
		t.Errorf("config %+v", got)
	}
}

func TestNames(t *testing.T) {
	for _, c := range []struct{ got, want string }{
		{vhostuser.MsgGetVringBase.String(), "GET_VRING_BASE"},
		{vhostuser.Request(31).String(), "request 31"},
		{vhostuser.ProtocolFeatures(0xa229).String(), "MQ|REPLY_ACK|BACKEND_REQ|CONFIG|RESET_DEVICE|CONFIGURE_MEM_SLOTS"},
		{vhostuser.ProtocolFeatures(1<<16 | 1).String(), "MQ|bit 16"},
		{vhostuser.EndMemory.String(), "memory"},
		{vhostuser.FaultLoop.String(), "loop"},
	} {
		if c.got != c.want {
			t.Errorf("%q, want %q", c.got, c.want)
		}
	}
}
