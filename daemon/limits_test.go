package daemon

import (
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/config"
)

func TestConnectionLimit(t *testing.T) {
	for _, tt := range []struct {
		name        string
		wanted, vms int
		files       uint64
		want        int // 0: an error
	}{
		{"room enough", 4096, 1, 20000, 4096},
		{"exactly enough", 4096, 1, 4096 + 64 + 48 + 64, 4096},
		{"one short", 4096, 1, 4096 + 64 + 48 + 64 - 1, 4095},
		{"usual soft limit", 4096, 1, 1024, 1024 - 64 - 48 - 64},
		{"last one", 4096, 1, 64 + 48 + 64 + 1, 1},
		{"none left", 4096, 1, 64 + 48 + 64, 0},
		{"next to no files", 1, 1, 3, 0},
		{"unlimited files", 2147483647, 1, unix.RLIM_INFINITY, 2147483647},
		{"two VMs share", 4096, 2, 64 + 2*(48+64) + 2*100 + 1, 100},
		{"two VMs, room for one", 4096, 2, 64 + 2*(48+64) + 1, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			limits, err := connectionLimits(slices.Repeat([]config.VM{{MaxConnections: tt.wanted}}, tt.vms), tt.files)
			got := 0
			if err == nil {
				got = limits[0]
			}
			if got != tt.want || (err != nil) != (tt.want == 0) {
				t.Errorf("got %d, %v; want %d", got, err, tt.want)
			}
		})
	}
}

func TestConnectionLimitErrorSaysWhatToDo(t *testing.T) {
	_, err := connectionLimits(make([]config.VM, 1), 100)
	if err == nil || !strings.Contains(err.Error(), "100 open files") || !strings.Contains(err.Error(), "raise it to 177") {
		t.Errorf("error %v", err)
	}
}

// A VM that wants little leaves the rest to those that want more.
func TestConnectionLimitsAreFair(t *testing.T) {
	vms := []config.VM{{MaxConnections: 1000}, {MaxConnections: 10}, {MaxConnections: 300}, {MaxConnections: 2000}}
	const fixed = 64 + 4*(48+64)
	for room, want := range map[uint64][]int{
		5000: {1000, 10, 300, 2000},
		3000: {1000, 10, 300, 1690},
		910:  {300, 10, 300, 300},
		40:   {10, 10, 10, 10},
		4:    {1, 1, 1, 1},
	} {
		if got, err := connectionLimits(vms, fixed+room); err != nil || !slices.Equal(got, want) {
			t.Errorf("room for %d: %v, error %v; want %v", room, got, err, want)
		}
	}
}
