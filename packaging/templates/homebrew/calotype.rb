class Calotype < Formula
  desc "@{summary}"
  homepage "@{repository}"
  version "@{version}"
  license any_of: ["MIT", "Apache-2.0"]

  on_macos do
    url "@{url_universal_macos}"
    sha256 "@{sha256_universal_macos}"
  end

  on_linux do
    on_intel do
      url "@{url_x86_64_linux}"
      sha256 "@{sha256_x86_64_linux}"
    end
    on_arm do
      url "@{url_aarch64_linux}"
      sha256 "@{sha256_aarch64_linux}"
    end
    depends_on "vulkan-loader"
  end

  def install
    bin.install "calotype"
    man1.install Dir["man/*.1"]
    bash_completion.install "completions/calotype.bash" => "calotype"
    zsh_completion.install "completions/calotype.zsh" => "_calotype"
    fish_completion.install "completions/calotype.fish"
    pkgshare.install "THIRD-PARTY-LICENSES"
  end

  test do
    assert_match version.to_s, shell_output("#{bin}/calotype -V")
  end
end
