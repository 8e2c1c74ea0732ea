# The program of a release, with the Vulkan loader that it looks for when it runs.
{ lib, stdenv, fetchurl, autoPatchelfHook, installShellFiles, makeWrapper, vulkan-loader }:
let
  version = "@{version}";
  archives = {
    x86_64-linux = {
      url = "@{url_x86_64_linux}";
      sha256 = "@{sha256_x86_64_linux}";
    };
    aarch64-linux = {
      url = "@{url_aarch64_linux}";
      sha256 = "@{sha256_aarch64_linux}";
    };
    x86_64-darwin = macos;
    aarch64-darwin = macos;
  };
  macos = {
    url = "@{url_universal_macos}";
    sha256 = "@{sha256_universal_macos}";
  };
  system = stdenv.hostPlatform.system;
in
stdenv.mkDerivation {
  pname = "calotype";
  inherit version;
  src = fetchurl (archives.${system} or (throw "calotype: no archive for ${system}"));
  nativeBuildInputs = [ installShellFiles makeWrapper ]
    ++ lib.optional stdenv.hostPlatform.isLinux autoPatchelfHook;
  buildInputs = lib.optional stdenv.hostPlatform.isLinux stdenv.cc.cc.lib;
  dontStrip = true;
  installPhase = ''
    runHook preInstall
    install -Dm755 calotype -t $out/bin
    installManPage man/*.1
    installShellCompletion completions/calotype.{bash,zsh,fish}
    install -Dm644 LICENSE-* THIRD-PARTY-LICENSES -t $out/share/licenses/calotype
    runHook postInstall
  '';
  postFixup = lib.optionalString stdenv.hostPlatform.isLinux ''
    wrapProgram $out/bin/calotype --prefix LD_LIBRARY_PATH : ${lib.makeLibraryPath [ vulkan-loader ]}
  '';
  meta = {
    description = "@{summary}";
    homepage = "@{repository}";
    license = with lib.licenses; [ mit asl20 ];
    platforms = builtins.attrNames archives;
    mainProgram = "calotype";
    sourceProvenance = [ lib.sourceTypes.binaryNativeCode ];
  };
}
