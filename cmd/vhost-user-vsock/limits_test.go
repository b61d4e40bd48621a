package main

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"
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
			got, err := connectionLimit(tt.wanted, tt.vms, tt.files)
			if got != tt.want || (err != nil) != (tt.want == 0) {
				t.Errorf("got %d, %v; want %d", got, err, tt.want)
			}
		})
	}
}

func TestConnectionLimitErrorSaysWhatToDo(t *testing.T) {
	_, err := connectionLimit(4096, 1, 100)
	if err == nil || !strings.Contains(err.Error(), "100 open files") || !strings.Contains(err.Error(), "raise it to 177") {
		t.Errorf("error %v", err)
	}
}
