# A door for those who run node-gyp: it calls the same CMake build as `shardloop setup` (CMakeLists.txt is the only
# truth), which leaves build/Release/shardloop.node. Nothing is compiled by gyp itself.
{
  "targets": [
    {
      "target_name": "shardloop",
      "type": "none",
      "actions": [
        {
          "action_name": "cmake",
          "inputs": ["CMakeLists.txt", "dist/setup/setup.js"],
          "outputs": ["<(PRODUCT_DIR)/shardloop.node"],
          "action": ["<!(node -p process.execPath)", "dist/cli/index.js", "setup"]
        }
      ]
    }
  ]
}
