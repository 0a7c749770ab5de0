# Everything goes through here; .ci/run calls the same targets.
#
#   make build        bin/station and its companions
#   make demo         the whole line, simulated boards and service, unattended
#   make run          the same, but it stays up, with the operator page to look at
#   make test         every test; installs the tools it needs
#   make check        format, vet, staticcheck, layers, tidiness, vulnerabilities
#   make conformance  against programs that are not ours (npm, Debian)
#   make chaos        kills at every step, then everything is recounted
#   make bench        figures to bench/latest.json
#   make fuzz         each fuzz target for FUZZTIME

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

FOLDERS := station flasher ca records fixtures
MAINS := ./station ./fixtures/simline
# The clock may not be behind this; see clock.stepped.
BUILT = $(shell date -u +%Y-%m-%dT%H:%M:%SZ)
VERSION = $(shell git describe --always --dirty 2>/dev/null || echo dev)
BUILD = CGO_ENABLED=0 go build -trimpath -ldflags "-X main.built=$(BUILT) -X main.version=$(VERSION)"

STATICCHECK := go run honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK := go run golang.org/x/vuln/cmd/govulncheck@v1.9.0

FUZZTIME ?= 20s
BENCHTIME ?= 1s

.PHONY: build demo run tools test check conformance chaos bench fuzz clean

build:
	@mkdir -p bin
	$(BUILD) -o bin/ $(MAINS)

demo: build
	@.ci/tools demo
	bin/simline demo

run: build
	@.ci/tools demo
	bin/simline demo --stay

tools:
	@.ci/tools

test: tools
	NAMEPLATE_TOOLS=1 go test ./...

check:
	@echo "format"; bad=$$(gofmt -l $(FOLDERS)); test -z "$$bad" || { echo "not gofmt: $$bad"; exit 1; }
	go vet ./...
	go vet -tags conformance ./...
	go vet -tags crash ./...
	$(STATICCHECK) ./...
	$(STATICCHECK) -tags conformance,crash ./...
	go mod tidy -diff
	go test -count=1 -run 'TestLayers|TestHouseRules' ./station
	@echo "vulnerabilities"; out=$$($(GOVULNCHECK) ./... 2>&1) && echo "$$out" || { \
		if grep -q 'fetching vulnerabilities' <<<"$$out"; then echo "vulnerabilities: skipped (database unreachable)"; \
		else echo "$$out"; exit 1; fi; }

conformance: tools
	NAMEPLATE_TOOLS=1 go test -count=1 -timeout 20m -tags conformance -run Conformance ./...

# The build that can be told where to die is made apart; bin/station cannot.
chaos: build
	@mkdir -p build/crash
	$(BUILD) -tags crash -o build/crash/ ./station
	bin/simline chaos

bench:
	@mkdir -p bench
	@.ci/bench "$(BENCHTIME)" bench/latest.json

fuzz:
	@.ci/fuzz "$(FUZZTIME)"

clean:
	rm -rf bin build bench
