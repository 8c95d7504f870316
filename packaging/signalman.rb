# Template of the Homebrew formula: packaging/render.sh puts in version, place and sums.
class Signalman < Formula
  desc "Chat with Claude over Signal, from one binary that loses nothing"
  homepage "@HOMEPAGE@"
  version "@VERSION@"
  license "AGPL-3.0-only"

  on_macos do
    on_arm do
      url "@RELEASES@/signalman-darwin-arm64.zst"
      sha256 "@SUM:signalman-darwin-arm64.zst@"
    end
    on_intel do
      url "@RELEASES@/signalman-darwin-x64.zst"
      sha256 "@SUM:signalman-darwin-x64.zst@"
    end
  end
  on_linux do
    on_arm do
      url "@RELEASES@/signalman-linux-arm64.zst"
      sha256 "@SUM:signalman-linux-arm64.zst@"
    end
    on_intel do
      url "@RELEASES@/signalman-linux-x64.zst"
      sha256 "@SUM:signalman-linux-x64.zst@"
    end
  end

  def install
    bin.install Dir["signalman-*"].first => "signalman"
    chmod 0755, bin/"signalman"
    generate_completions_from_executable(bin/"signalman", "completions")
    (man1/"signalman.1").write Utils.safe_popen_read(bin/"signalman", "man")
  end

  service do
    run [opt_bin/"signalman", "run"]
    keep_alive crashed: true
    environment_variables BUN_JSC_useJIT: "0", MIMALLOC_PURGE_DELAY: "0"
  end

  test do
    assert_match version.to_s, shell_output("#{bin}/signalman --version")
  end
end
