GO       ?= go
PACKAGE  := ./cmd/vhost-user-vsock
PROGRAM  ?= build/vhost-user-vsock
# Of a length that does not depend on how many commits this clone has.
VERSION  := $(shell git describe --tags --always --dirty --abbrev=12 2>/dev/null)
LDFLAGS  := -s -w $(if $(VERSION),-X main.version=$(VERSION))
FUZZTIME ?= 10s
COUNT    ?= 1
T        ?= 20m
# When the commit was made: the date of all that a package contains.
SOURCE_DATE_EPOCH ?= $(or $(shell git log -1 --format=%ct 2>/dev/null),0)

# Everything but the tests that start the daemon and boot guests.
UNITS = $(shell $(GO) list ./... | grep -v /tests; $(GO) list ./tests/device)
# Those, but for the one that wants the machine for itself.
GUESTS = $(shell $(GO) list ./tests/... | grep -v -e /soak -e /tests/device)

export CGO_ENABLED = 0
export VERSION SOURCE_DATE_EPOCH

.DEFAULT_GOAL := help
.PHONY: help deps build test unit race single arm64 guest test-ch lint fuzz soak-2m soak benchmarks bench bench-plot demo deb release clean

help: ## Say what each target does.
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

deps: ## Install and unpack what the tests need beyond Go (Debian 12).
	tests/deps

build: ## Build the static daemon, build/vhost-user-vsock.
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(PROGRAM) $(PACKAGE)

test: deps lint unit race single arm64 guest soak-2m ## Run every check there is; what CI runs.

unit: ## Run the packages' tests, and each benchmark once.
	$(GO) test -bench . -benchtime 1x $(UNITS)

race: ## Run the packages' tests under the race detector.
	CGO_ENABLED=1 $(GO) test -race $(UNITS)

single: ## Run the packages' tests on one processor, where some hangs show.
	GOMAXPROCS=1 $(GO) test $(UNITS)

arm64: ## Vet and build for linux/arm64.
	GOARCH=arm64 $(GO) vet ./...
	GOARCH=arm64 $(GO) build -o /dev/null $(PACKAGE)

guest: ## Drive the real daemon as a process, and boot real guests on it.
	$(GO) test -count 1 -timeout 25m -bench . -benchtime 500x $(GUESTS)

test-ch: ## Test under cloud-hypervisor too: CLOUD_HYPERVISOR=/path/to/it, and KVM.
	@test -x "$(CLOUD_HYPERVISOR)" || { echo "CLOUD_HYPERVISOR must name the cloud-hypervisor to test with"; exit 1; }
	CLOUD_HYPERVISOR=$(abspath $(CLOUD_HYPERVISOR)) $(GO) test -count 1 -timeout 15m ./tests/cloudhypervisor

lint: ## Check format, vet, staticcheck and go.mod.
	@test -z "$$(gofmt -l .)" || { gofmt -d .; exit 1; }
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	$(GO) mod tidy -diff

fuzz: ## Fuzz each target for FUZZTIME.
	@for package in $(UNITS); do \
		for target in $$($(GO) test -list '^Fuzz' $$package | grep ^Fuzz); do \
			echo "$$package $$target" && \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$package || exit 1; \
		done; \
	done

soak-2m: ## Have guests come and go for two minutes; nothing may grow.
	$(GO) test -count 1 -timeout 20m ./tests/soak

soak: deps ## The same for T, and under the race detector for T more.
	$(GO) test -count 1 -timeout 0 -v ./tests/soak -soak $(T)
	$(GO) test -count 1 -timeout 0 -v ./tests/soak -soak $(T) -races

benchmarks: deps ## Run the Go benchmarks COUNT times, for benchstat; those of a real guest, too.
	$(GO) test -run '^$$' -bench . -benchmem -count $(COUNT) $(UNITS) ./tests

bench: ## Measure the daemon beside a bare socket and PEER='command with {sock} and {uds}'; BENCH has flags.
	@mkdir -p build
	$(GO) run ./tests/bench -json build/bench.json $(BENCH)

bench-plot: ## Draw what "make bench" measured last, for the README.
	$(GO) run ./tests/bench -plot build/bench.json >build/bench.svg
	mv build/bench.svg docs/bench.svg

demo: ## Boot a guest and talk with it, both ways, in under a minute.
	tests/deps uml
	$(GO) run ./tests/demo

deb: ## Build the Debian package for this machine, in build/release.
	packaging/release deb $(shell $(GO) env GOARCH)

release: ## Build programs and packages for amd64 and arm64, byte for byte the same from one commit.
	packaging/release amd64 arm64

clean: ## Remove what was built, the guests' kernels included.
	rm -rf build
